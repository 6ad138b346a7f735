//! `cargo run --release --bin sim -- --seed N`: one seed, or many, through the simulator. Exit code 0, or 1 after a report
//! with seed, plan and the first violated assertion. Refuses to go on after a violation.

use clap::Parser;
use falconer::sim::plan::Plan;
use falconer::sim::world::{self, Report};
use std::time::Instant;

/// Runs simulated ensembles and looks for broken promises.
#[derive(Parser)]
struct Args {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Shows each plan.
    #[arg(long)]
    verbose: bool,
}

fn main() {
    let args = Args::parse();
    let started = Instant::now();
    let (mut events, mut simulated_ms) = (0, 0);
    for seed in args.seed..args.seed + args.seeds {
        let plan = Plan::of_seed(seed);
        if args.verbose {
            println!("{plan}");
        }
        report_panics(plan.clone());
        let report: Report = world::run(plan);
        if args.verbose {
            println!("{report:?}");
        }
        events += report.events;
        simulated_ms += report.simulated_ms;
    }
    let seconds = started.elapsed().as_secs_f64();
    let rate = events as f64 / seconds;
    println!("{} seeds, {events} events, {} simulated s in {seconds:.1} s: {rate:.0} events/s", args.seeds, simulated_ms / 1000);
}

/// A violation is a panic; it is reported with what repeats it.
fn report_panics(plan: Plan) {
    std::panic::set_hook(Box::new(move |panic| {
        eprintln!("{plan}\nviolated: {panic}\nrepeat: cargo run --release --bin sim -- --seed {}", plan.seed);
        std::process::exit(1);
    }));
}
