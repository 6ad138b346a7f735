//! `cargo run --release --bin sim -- --seed N`: ensembles under faults, see docs/simulator.md. Exit code 0, or 1 after a
//! report with the seed, the first violated assertion and the shortest plan that still violates it.
//! Built with the feature `mutants`, `--mutants` asks for each known bug whether it would be noticed.
//! Refuses to go on after a violation.

#[cfg(feature = "mutants")]
mod mutants;
mod shrink;

use clap::Parser;
use falconer::sim::plan::Plan;
use falconer::sim::regressions::{self, Regression};
use falconer::sim::scenario::{STORIES, Story};
use falconer::sim::world;
use std::collections::BTreeMap;
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::time::Instant;

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
    /// Only seeds that tell this story, see `sim::scenario`.
    #[arg(long, value_parser = story)]
    story: Option<Story>,
    /// Run the plan in this file instead of seeds.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Run every plan that is kept in this directory instead of seeds.
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = regressions::DIRECTORY)]
    regressions: Option<PathBuf>,
    /// Where to put the shortest plan that violates a promise.
    #[arg(long, value_name = "FILE", default_value = "violation.toml")]
    keep: PathBuf,
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
    /// With `--mutants`: how often, each time from other seeds.
    #[cfg(feature = "mutants")]
    #[arg(long, default_value_t = 1)]
    repeats: u64,
    /// With `--mutants`: keep the shortest plan that notices each one in this directory.
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "DIR")]
    collect: Option<PathBuf>,
}

/// What seeds did together.
#[derive(Default)]
struct Total {
    seeds: u64,
    events: u64,
    simulated_ms: u64,
    batches: u64,
    epochs: u64,
    faults: BTreeMap<&'static str, u64>,
    /// How often each rare path was taken.
    #[cfg(feature = "mutants")]
    marks: BTreeMap<&'static str, u64>,
}

fn main() {
    let args = Args::parse();
    #[cfg(feature = "mutants")]
    if let Some(seconds) = args.mutants {
        mutants::hunt(&args, seconds);
    }
    let started = Instant::now();
    let mut total = Total::default();
    if let Some(directory) = &args.regressions {
        replay(&args, directory, &mut total);
    } else if let Some(file) = &args.plan {
        let Regression { plan, .. } = Regression::read(file).unwrap_or_else(|error| fail(&error));
        total.run(&args, plan);
    } else {
        total = run_threads(&args, started);
    }
    let seconds = started.elapsed().as_secs_f64();
    #[cfg(feature = "mutants")]
    println!("rare paths {:?}", total.marks);
    let Total { seeds, events, simulated_ms, batches, epochs, faults, .. } = total;
    let rate = events as f64 / seconds / args.threads as f64;
    println!("{seeds} seeds, {events} events, {batches} batches, {epochs} epochs, {} simulated s in {seconds:.1} s", simulated_ms / 1000);
    println!("{rate:.0} events a second per thread; faults {faults:?}");
}

fn story(name: &str) -> Result<Story, String> {
    let known = STORIES.iter().find(|story| format!("{story:?}") == name);
    known.copied().ok_or_else(|| format!("one of {STORIES:?}"))
}

fn fail(error: &dyn std::fmt::Display) -> ! {
    eprintln!("sim: {error}");
    std::process::exit(2)
}

/// Every kept plan passes.
fn replay(args: &Args, directory: &Path, total: &mut Total) {
    let kept = regressions::all(directory).unwrap_or_else(|error| fail(&error));
    for (name, Regression { plan, .. }) in &kept {
        println!("{name}");
        total.run(args, plan.clone());
    }
}

fn run_threads(args: &Args, started: Instant) -> Total {
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
    total
}

fn run_seeds(args: &Args, thread: u64, started: Instant) -> Total {
    let mut total = Total::default();
    for seed in (args.seed..args.seed + args.seeds).skip(thread as usize).step_by(args.threads as usize) {
        if args.minutes.is_some_and(|minutes| started.elapsed().as_secs_f64() > minutes * 60.0) {
            break;
        }
        let plan = Plan::of_seed(seed);
        if args.story.is_none() || args.story == plan.story {
            total.run(args, plan);
        }
    }
    total
}

impl Total {
    fn run(&mut self, args: &Args, mut plan: Plan) {
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
        self.epochs += report.epochs;
        report.faults.into_iter().for_each(|(kind, n)| *self.faults.entry(kind).or_default() += n);
        #[cfg(feature = "mutants")]
        falconer::marks::take_hits().into_iter().for_each(|(name, n)| *self.marks.entry(name).or_default() += n);
    }

    fn add(&mut self, other: Total) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.simulated_ms += other.simulated_ms;
        self.batches += other.batches;
        self.epochs += other.epochs;
        other.faults.into_iter().for_each(|(kind, n)| *self.faults.entry(kind).or_default() += n);
        #[cfg(feature = "mutants")]
        other.marks.into_iter().for_each(|(name, n)| *self.marks.entry(name).or_default() += n);
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
        report(&args, plan, panic);
        std::process::exit(1);
    }));
}

fn report(args: &Args, plan: Plan, panic: &PanicHookInfo<'_>) {
    eprintln!("seed {} violates a promise\n{panic}", plan.seed);
    if args.no_shrink {
        return;
    }
    let what = panic.to_string().lines().nth(1).unwrap_or_default().to_string();
    let shorter = shrink::shrink(args, plan);
    eprintln!("{shorter}");
    #[cfg(feature = "mutants")]
    let mutant = args.mutant.clone();
    #[cfg(not(feature = "mutants"))]
    let mutant = None;
    match (Regression { what, mutant, plan: shorter }).write(&args.keep) {
        Ok(()) => eprintln!("repeat: cargo run --release --bin sim -- --plan {} --verbose", args.keep.display()),
        Err(error) => eprintln!("the plan is lost: {error}"),
    }
}
