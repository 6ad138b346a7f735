//! The pieces of the server alone, each as a small fixed amount of work: codec, tree, prepare, commit ring, log batch, watch
//! fan-out, snapshot slice. `cargo bench --bench pieces` times them with criterion; under `cargo test` each runs once, so
//! that it does not rot; `pieces --run NAME COUNT` runs one so many times and nothing else, for benches/instructions.

mod trees;
mod wires;

use criterion::Criterion;
use std::process::ExitCode;

/// One unit of work of a piece; what it returns depends on the work, so that none can be left out.
type Work = Box<dyn FnMut() -> usize>;

/// Makes a piece ready; that is not measured.
type SetUp = fn() -> Work;

const PIECES: [(&str, SetUp); 12] = [
    ("codec/decode-100-requests", wires::decode_requests),
    ("codec/encode-100-replies", wires::encode_replies),
    ("tree/read-100", trees::read),
    ("tree/apply-100-sets", trees::apply_sets),
    ("tree/apply-100-creates-and-deletes", trees::apply_creates_and_deletes),
    ("prepare/100-sets", trees::prepare_sets),
    ("prepare/100-sequential-creates", trees::prepare_creates),
    ("commit-ring/64-batches-2-shards", wires::commit_ring_turns),
    ("log/batch-of-100", wires::log_batch),
    ("log/check-batch-of-100", wires::check_batch),
    ("watch/fan-out-1000", trees::watch_fan_out),
    ("snapshot/slice-of-500", trees::snapshot_slice),
];

/// Runs one piece and prints what it returned last.
fn run(name: &str, count: u32) -> ExitCode {
    let Some((_, set_up)) = PIECES.iter().find(|(known, _)| *known == name) else {
        eprintln!("pieces: no piece {name:?}; --list shows them");
        return ExitCode::from(2);
    };
    let mut work = set_up();
    let last = (0..count).fold(0, |_, _| work());
    println!("{name}: {count} times, {last}");
    ExitCode::SUCCESS
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--list"] => {
            PIECES.iter().for_each(|(name, _)| println!("{name}"));
            ExitCode::SUCCESS
        }
        ["--run", name, count] => match count.parse() {
            Ok(count) => run(name, count),
            Err(error) => {
                eprintln!("pieces: {count:?}: {error}");
                ExitCode::from(2)
            }
        },
        _ => {
            let mut criterion = Criterion::default().configure_from_args();
            for (name, set_up) in PIECES {
                let mut work = set_up();
                criterion.bench_function(name, |bencher| bencher.iter(&mut work));
            }
            criterion.final_summary();
            ExitCode::SUCCESS
        }
    }
}
