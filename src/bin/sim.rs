//! `cargo run --release --bin sim -- --seed N`: ensembles under faults, see docs/simulator.md. Exit code 0, or 1 after a
//! report with the seed, the first violated assertion and the shortest plan that still violates it.
//! Built with the feature `mutants`, `--mutants` asks for each known bug whether it would be noticed.
//! Refuses to go on after a violation.

use clap::Parser;
use falconer::sim::plan::Plan;
use falconer::sim::world;
use std::collections::BTreeMap;
use std::panic::PanicHookInfo;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a failing plan is made shorter.
const SHRINK_FOR: Duration = Duration::from_secs(60);

/// Runs simulated ensembles and looks for broken promises.
#[derive(Parser, Clone)]
struct Args {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Stop starting new seeds after this.
    #[arg(long)]
    minutes: Option<f64>,
    /// Events per seed, at most.
    #[arg(long)]
    events: Option<u64>,
    /// Threads that run seeds.
    #[arg(long, default_value_t = 1)]
    threads: u64,
    /// Leave these faults of the plan out, by number.
    #[arg(long, value_delimiter = ',')]
    without: Vec<usize>,
    /// Show each plan and what it did.
    #[arg(long)]
    verbose: bool,
    /// Report a violation as it is.
    #[arg(long)]
    no_shrink: bool,
    /// Bring one known bug back.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    mutant: Option<String>,
    /// Bring every known bug back, one after the other, for so many seconds each, and say which ones are noticed.
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5")]
    mutants: Option<f64>,
}

/// What seeds did together.
#[derive(Default)]
struct Total {
    seeds: u64,
    events: u64,
    simulated_ms: u64,
    batches: u64,
    faults: BTreeMap<&'static str, u64>,
}

fn main() {
    let args = Args::parse();
    #[cfg(feature = "mutants")]
    if let Some(seconds) = args.mutants {
        mutants::hunt(seconds);
    }
    let started = Instant::now();
    let threads: Vec<_> = (0..args.threads)
        .map(|thread| {
            let args = args.clone();
            std::thread::spawn(move || run_seeds(&args, thread, started))
        })
        .collect();
    let mut total = Total::default();
    for thread in threads {
        total.add(thread.join().expect("a violation ends the process"));
    }
    let seconds = started.elapsed().as_secs_f64();
    let Total { seeds, events, simulated_ms, batches, faults } = total;
    let rate = events as f64 / seconds / args.threads as f64;
    println!("{seeds} seeds, {events} events, {batches} batches, {} simulated s in {seconds:.1} s", simulated_ms / 1000);
    println!("{rate:.0} events a second per thread; faults {faults:?}");
}

fn run_seeds(args: &Args, thread: u64, started: Instant) -> Total {
    let mut total = Total::default();
    for seed in (args.seed..args.seed + args.seeds).skip(thread as usize).step_by(args.threads as usize) {
        if args.minutes.is_some_and(|minutes| started.elapsed().as_secs_f64() > minutes * 60.0) {
            break;
        }
        total.run(args, seed);
    }
    total
}

impl Total {
    fn run(&mut self, args: &Args, seed: u64) {
        let mut plan = Plan::of_seed(seed);
        plan.leave_out(&args.without);
        plan.events_max = args.events.unwrap_or(plan.events_max);
        if args.verbose {
            println!("{plan}");
        }
        #[cfg(feature = "mutants")]
        mutants::activate(args.mutant.as_deref());
        report_violations(args, &plan);
        let report = world::run(plan);
        if args.verbose {
            println!("{report:?}");
        }
        self.seeds += 1;
        self.events += report.events;
        self.simulated_ms += report.simulated_ms;
        self.batches += report.batches;
        report.faults.into_iter().for_each(|(kind, n)| *self.faults.entry(kind).or_default() += n);
    }

    fn add(&mut self, other: Total) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.simulated_ms += other.simulated_ms;
        self.batches += other.batches;
        other.faults.into_iter().for_each(|(kind, n)| *self.faults.entry(kind).or_default() += n);
    }
}

/// A violation is a panic on the thread that runs the seed. It is reported with what repeats it, and ends the process.
fn report_violations(args: &Args, plan: &Plan) {
    thread_local! {
        static RUNNING: std::cell::RefCell<Option<(Args, Plan)>> = const { std::cell::RefCell::new(None) };
    }
    RUNNING.set(Some((args.clone(), plan.clone())));
    std::panic::set_hook(Box::new(|panic| {
        let Some((args, plan)) = RUNNING.take() else { return eprintln!("{panic}") };
        report(&args, &plan, panic);
        std::process::exit(1);
    }));
}

fn report(args: &Args, plan: &Plan, panic: &PanicHookInfo<'_>) {
    eprintln!("seed {} violates a promise\n{panic}", plan.seed);
    if args.no_shrink {
        return;
    }
    let without = shrink(args, plan);
    let mut shorter = Plan::of_seed(plan.seed);
    shorter.leave_out(&without);
    let list: Vec<String> = without.iter().map(usize::to_string).collect();
    eprintln!("{shorter}");
    eprintln!("repeat: cargo run --release --bin sim -- --seed {} --without {} --verbose", plan.seed, list.join(","));
}

/// Leaves faults out as long as the plan still fails: first half of them at a time, then fewer.
fn shrink(args: &Args, plan: &Plan) -> Vec<usize> {
    let until = Instant::now() + SHRINK_FOR;
    let mut without = args.without.clone();
    let all = Plan::of_seed(plan.seed).faults.len();
    let mut chunk = all.div_ceil(2).max(1);
    loop {
        let left: Vec<usize> = (0..all).filter(|i| !without.contains(i)).collect();
        for some in left.chunks(chunk) {
            let candidate: Vec<usize> = without.iter().chain(some).copied().collect();
            if Instant::now() > until {
                return without;
            }
            if fails(args, plan.seed, &candidate) {
                without = candidate;
            }
        }
        if chunk == 1 {
            without.sort_unstable();
            return without;
        }
        chunk = chunk.div_ceil(2);
    }
}

fn fails(args: &Args, seed: u64, without: &[usize]) -> bool {
    let list: Vec<String> = without.iter().map(usize::to_string).collect();
    let mut command = Command::new(std::env::current_exe().expect("it runs"));
    command.args(["--no-shrink", "--seed", &seed.to_string(), "--without", &list.join(",")]);
    #[cfg(feature = "mutants")]
    command.args(args.mutant.iter().flat_map(|name| ["--mutant", name]));
    command.args(args.events.iter().flat_map(|n| ["--events".to_string(), n.to_string()]));
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.code() == Some(1))
}

#[cfg(feature = "mutants")]
mod mutants {
    //! Every known bug, one after the other.

    use falconer::marks;
    use falconer::sim::mutants::{MUTANTS, UNNOTICED};
    use std::process::Command;
    use std::time::Instant;

    pub fn activate(name: Option<&str>) {
        let known = name.map(|name| MUTANTS.iter().find(|(known, _)| *known == name).expect("a mutant of the list").0);
        marks::activate(known);
    }

    /// Ends the process: 0 if every mutant was noticed, but for the known blind spots.
    pub fn hunt(seconds: f64) -> ! {
        let mut survivors = Vec::new();
        for (name, what) in MUTANTS {
            let started = Instant::now();
            let mut command = Command::new(std::env::current_exe().expect("it runs"));
            command.args(["--no-shrink", "--seeds", "1000000", "--minutes", &(seconds / 60.0).to_string(), "--mutant", name]);
            let output = command.output().expect("it runs again");
            let text = String::from_utf8_lossy(&output.stderr);
            let noticed = output.status.code() == Some(1);
            let lines: Vec<&str> = text.lines().collect();
            let said = lines.get(2).or(lines.first()).copied().unwrap_or("").chars().take(90).collect::<String>();
            let seed = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or("?");
            let after = started.elapsed().as_secs_f64();
            match noticed {
                true => println!("{name} noticed at seed {seed} after {after:.1} s: {what}\n      {said}"),
                false => println!("{name} SURVIVES {after:.1} s: {what}"),
            }
            if !noticed {
                survivors.push(*name);
            }
        }
        println!("{} of {} mutants noticed; survivors: {survivors:?}", MUTANTS.len() - survivors.len(), MUTANTS.len());
        let new: Vec<&str> = survivors.into_iter().filter(|name| !UNNOTICED.contains(name)).collect();
        println!("of them not known before: {new:?}");
        std::process::exit(i32::from(!new.is_empty()));
    }
}
