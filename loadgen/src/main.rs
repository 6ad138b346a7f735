//! `falconer-loadgen`: load for a server that speaks the ZooKeeper client protocol, with every reply checked.
//!
//! ```text
//! main ── args, spec (TOML) ──> plan ── control ──> the tree is prepared and tidied
//!                                └─> conductor: stages, seconds, commands ──> worker (one per thread): event loop
//!                        report <── meter, tally <───────────── link, session (frames, ids) + workload (asks, checks)
//! ```
//!
//! Exit status: 0 every reply was right, 1 some were not, 2 the run could not be made.
//! Refuses to touch anything outside its root node.

#![forbid(unsafe_code)]

mod actions;
mod args;
mod clock;
mod conductor;
mod content;
mod control;
mod failure;
mod frames;
mod link;
mod live;
mod meter;
mod pace;
mod plan;
mod process;
mod report;
mod session;
mod spec;
mod tally;
mod worker;
mod workload;

use args::{Arguments, Command, Output, Run};
use clap::Parser;
use live::Live;
use plan::{Plan, PlanError, Witness};
use report::{Extra, Header, Report};
use spec::{Recipe, Spec};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The first signal ends the measured phase; the second ends the program.
        let registered = signal_hook::flag::register_conditional_shutdown(signal, 2, interrupted.clone())
            .and_then(|_| signal_hook::flag::register(signal, interrupted.clone()));
        if let Err(error) = registered {
            eprintln!("falconer-loadgen: signals: {error}");
            return ExitCode::from(2);
        }
    }
    let result = match &arguments.command {
        None => run(&arguments.run, &interrupted).map(|report| (report, &arguments.run.output)),
        Some(Command::List { workload }) => return list(workload.as_deref()),
        Some(Command::Fill(options)) => fill(options, &interrupted).map(|report| (report, &options.output)),
        Some(Command::Clean { target, output }) => clean(target).map(|report| (report, output)),
    };
    match result {
        Ok((report, output)) => {
            print(&report, output);
            ExitCode::from(u8::from(!report.is_clean()))
        }
        Err(error) => {
            eprintln!("falconer-loadgen: {error}");
            ExitCode::from(2)
        }
    }
}

fn print(report: &Report, output: &Output) {
    match (output.json, output.quiet) {
        (true, _) => println!("{}", report.to_json()),
        (false, true) => println!("{}", report::one_line(report)),
        (false, false) => print!("{}", report::screen(report)),
    }
}

fn list(workload: Option<&str>) -> ExitCode {
    let Some(word) = workload else {
        for word in Spec::words() {
            let (_, spec) = Spec::find(word).expect("it is built in");
            println!("{word:18} {}", spec.about);
        }
        return ExitCode::SUCCESS;
    };
    match Spec::text(word) {
        Some(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("falconer-loadgen: no workload {word:?}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Run, interrupted: &AtomicBool) -> Result<Report, PlanError> {
    let refused = PlanError::Refused;
    let (name, mut spec) = Spec::find(options.workload.as_deref().unwrap_or("mixed")).map_err(refused)?;
    options.load.apply(&mut spec).map_err(refused)?;
    let actions = options.load.actions().map_err(refused)?;
    let schedule = options.load.schedule();
    let plan = Plan { target: &options.target, spec: &spec, load: &options.load, schedule, actions: &actions };
    let mut live = Live::new(&options.output);
    let mut reports = Vec::new();
    for _ in 0..options.load.repeat {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        reports.push(run_once(&name, &plan, &mut live, interrupted)?);
    }
    Ok(Report::median(reports))
}

/// One run and its report.
fn run_once(name: &str, plan: &Plan<'_>, live: &mut Live, interrupted: &AtomicBool) -> Result<Report, PlanError> {
    let header = Header::collect(plan.target, plan.load.seed);
    let findings = plan.play(&mut Witness { on_row: &mut |row| live.row(row), interrupted })?;
    live.end();
    let extra = if plan.spec.recipe == Recipe::Idle { Extra::Sessions(plan.spec.connections) } else { Extra::None };
    let mut report = Report::new(name, title(name, plan, &header), header, &findings.measured, extra);
    report.offered_per_s = plan.schedule.as_ref().map(|schedule| schedule.mean_rate(findings.measured.elapsed));
    report.checked_at_end = findings.checked_at_end;
    Ok(report)
}

fn title(name: &str, plan: &Plan<'_>, header: &Header) -> String {
    let (spec, load) = (plan.spec, plan.load);
    let loop_text = match &plan.schedule {
        Some(schedule) => format!("open loop, {:?} arrivals", schedule.arrivals).to_lowercase(),
        None => "closed loop".into(),
    };
    let servers = header.servers.join(",");
    format!(
        "{name} on {servers}: {} connections x {} outstanding, {}, {} thread(s), {loop_text}",
        spec.connections, spec.outstanding, spec.size, load.threads
    )
}

fn fill(options: &args::Fill, interrupted: &AtomicBool) -> Result<Report, PlanError> {
    let header = Header::collect(&options.target, 0);
    let mut live = Live::new(&options.output);
    let measured = plan::fill(options, &mut Witness { on_row: &mut |row| live.row(row), interrupted })?;
    live.end();
    let title = format!(
        "fill on {}: {} nodes of {} B, {} connections x {} outstanding",
        options.target.servers[0], options.nodes, options.size, options.connections, options.outstanding
    );
    Ok(Report::new("fill", title, header, &measured, Extra::Nodes(options.nodes)))
}

fn clean(target: &args::Target) -> Result<Report, PlanError> {
    let begin = Instant::now();
    let gone = plan::remove_root(target)?;
    Ok(Report::cleaned(format!("clean on {}", target.servers[0]), gone, begin.elapsed()))
}
