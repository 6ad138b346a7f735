//! `falconer-loadgen`: load for a server that speaks the ZooKeeper client protocol, with every reply checked.
//!
//! ```text
//! main ── args, spec (TOML) ──> plan ── control ──> the tree is prepared and tidied
//!                                └─> conductor: stages, seconds, commands ──> worker (one per thread): event loop
//!                        report <── meter, tally <───────────── link, session (frames, ids) + workload (asks, checks)
//! ```
//!
//! Exit status: 0 every reply was right, 1 some were not, 2 the run could not be made, 3 a condition does not hold.
//! Refuses to touch anything outside its root node.

#![forbid(unsafe_code)]

mod access;
mod actions;
mod args;
mod clock;
mod compare;
mod conductor;
mod control;
mod failure;
mod figures;
mod frames;
mod gates;
mod knee;
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
use compare::SideReports;
use falconer_loadgen::content;
use gates::Gates;
use live::Live;
use pace::{Schedule, Step};
use plan::{Plan, PlanError, Witness};
use report::{Extra, Header, Report};
use spec::{Recipe, Spec};
use std::path::{Path, PathBuf};
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
        Some(Command::Compare(options)) => return compare(options, &interrupted),
        Some(Command::Fill(options)) => fill(options, &interrupted).map(|report| (report, &options.output)),
        Some(Command::Clean { target, output }) => clean(target).map(|report| (report, output)),
    };
    match result.and_then(|(report, output)| deliver(&report, output)) {
        Ok(status) => ExitCode::from(status),
        Err(error) => failed(&error),
    }
}

fn failed(error: &PlanError) -> ExitCode {
    eprintln!("falconer-loadgen: {error}");
    ExitCode::from(2)
}

/// Prints and writes a report, and judges it. Returns the exit status.
fn deliver(report: &Report, output: &Output) -> Result<u8, PlanError> {
    match (output.json, output.quiet) {
        (true, _) => println!("{}", report.to_json()),
        (false, true) => println!("{}", report::one_line(report)),
        (false, false) => print!("{}", report::screen(report)),
    }
    type Format = fn(&Report) -> String;
    let files: [(&Option<PathBuf>, Format); 5] = [
        (&output.save, Report::to_json),
        (&output.csv, report::csv),
        (&output.md, report::md),
        (&output.hgrm, report::hgrm),
        (&output.html, report::html),
    ];
    let unusable = |path: &Path, error: &dyn std::fmt::Display| PlanError::Refused(format!("{}: {error}", path.display()));
    for (path, format) in files.iter().filter_map(|(path, format)| Some((path.as_ref()?, format))) {
        std::fs::write(path, format(report)).map_err(|error| unusable(path, &error))?;
    }
    let mut broken = output.gates.as_ref().map_or(Vec::new(), |gates| gates.broken(report));
    if let Some(path) = &output.baseline {
        let text = std::fs::read_to_string(path).map_err(|error| unusable(path, &error))?;
        let baseline: Report = serde_json::from_str(&text).map_err(|error| unusable(path, &error))?;
        broken.extend(gates::regressions(report, &baseline, f64::from(output.tolerance) / 100.0));
    }
    broken.iter().for_each(|text| eprintln!("falconer-loadgen: FAILED {text}"));
    Ok(match (report.is_clean(), broken.is_empty()) {
        (false, _) => 1,
        (true, false) => 3,
        (true, true) => 0,
    })
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

/// A workload with what the flags change in it.
fn spec_of(workload: &str, load: &args::Load) -> Result<(String, Spec), PlanError> {
    let (name, mut spec) = Spec::find(workload).map_err(PlanError::Refused)?;
    load.apply(&mut spec).map_err(PlanError::Refused)?;
    Ok((name, spec))
}

fn run(options: &Run, interrupted: &AtomicBool) -> Result<Report, PlanError> {
    let load = &options.load;
    let (name, spec) = spec_of(options.workload.as_deref().unwrap_or("mixed"), load)?;
    let actions = load.actions().map_err(PlanError::Refused)?;
    let mut live = Live::new(!options.output.quiet && !options.output.json);
    let plan = Plan { target: &options.target, spec: &spec, load, schedule: load.schedule(), actions: &actions, talkative: Vec::new() };
    if let Some(gates) = &load.find_max {
        return find_max(&name, plan, gates, &mut live, interrupted);
    }
    let mut reports = Vec::new();
    while (reports.len() as u32) < load.repeat && (reports.is_empty() || !interrupted.load(Ordering::Relaxed)) {
        reports.push(run_once(&name, &plan, &mut live, interrupted)?);
    }
    Ok(Report::median(reports))
}

fn find_max(name: &str, plan: Plan<'_>, gates: &Gates, live: &mut Live, interrupted: &AtomicBool) -> Result<Report, PlanError> {
    let first = plan.schedule.as_ref().map_or(knee::FIRST_RATE, |schedule| schedule.steps[0].rate);
    let at_rate = |rate| {
        let schedule = Schedule { steps: vec![Step { rate, length: None }], arrivals: plan.load.arrivals };
        let report = run_once(name, &Plan { schedule: Some(schedule), ..plan.clone() }, live, interrupted)?;
        live.note(&format!("{rate:.0}/s offered: {}", report::one_line(&report)));
        Ok(report)
    };
    knee::find_max(first, gates, at_rate)
}

/// Loads all sides in turn. The exit status.
fn compare(options: &args::Compare, interrupted: &AtomicBool) -> ExitCode {
    match compare_sides(options, interrupted) {
        Ok(sides) => {
            print!("{}\n{}", compare::table(&sides), compare::distribution(&sides));
            if let Some(path) = &options.html
                && let Err(error) = std::fs::write(path, report::compare_html(&sides))
            {
                return failed(&PlanError::Refused(format!("{}: {error}", path.display())));
            }
            let all = || sides.iter().flat_map(|side| &side.reports);
            let invalid = all().filter(|report| !report.generator.invalid.is_empty()).count();
            if invalid > 0 {
                println!("\nIn {invalid} of {} runs the generator was the bottleneck: only the CPU time is good.", all().count());
            }
            let examples = all().flat_map(|report| &report.examples);
            examples.take(5).for_each(|example| println!("wrong: {example}"));
            ExitCode::from(u8::from(!all().all(Report::is_clean)))
        }
        Err(error) => failed(&error),
    }
}

fn compare_sides(options: &args::Compare, interrupted: &AtomicBool) -> Result<Vec<SideReports>, PlanError> {
    let (name, spec) = spec_of(&options.workload, &options.load)?;
    let mut live = Live::new(true);
    let mut sides: Vec<SideReports> =
        options.sides.iter().map(|side| SideReports { name: side.name.clone(), reports: Vec::new() }).collect();
    for round in 0..options.rounds {
        for (side, reports) in options.sides.iter().zip(&mut sides) {
            let (servers, server_pids) = (side.servers.clone(), side.pid.into_iter().collect());
            let target = args::Target { servers, server_pids, ..options.target.clone() };
            let schedule = options.load.schedule();
            let plan = Plan { target: &target, spec: &spec, load: &options.load, schedule, actions: &[], talkative: Vec::new() };
            let report = run_once(&name, &plan, &mut live, interrupted)?;
            live.note(&format!("{} {}: {}", side.name, round + 1, report::one_line(&report)));
            reports.reports.push(report);
        }
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(sides)
}

/// One run and its report.
fn run_once(name: &str, plan: &Plan<'_>, live: &mut Live, interrupted: &AtomicBool) -> Result<Report, PlanError> {
    let header = Header::collect(plan.target, plan.load.seed).map_err(PlanError::Refused)?;
    let plan = &Plan { talkative: header.talkative(plan.target), ..plan.clone() };
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
    let header = Header::collect(&options.target, 0).map_err(PlanError::Refused)?;
    let mut live = Live::new(!options.output.quiet && !options.output.json);
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
