//! Every known bug, one after the other: whether seeds notice it, after how many, and the shortest plan that does.
//! Refuses to count a plan that fails without the bug.

use super::{Args, fail};
use falconer::marks;
use falconer::sim::mutants::{MUTANTS, UNNOTICED};
use falconer::sim::regressions::Regression;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// The first seed of the second hunt; of the third twice as much.
const SEEDS_APART: u64 = 100_000;

pub fn activate(name: Option<&str>) {
    let known = name.map(|name| match MUTANTS.iter().find(|(known, _)| *known == name) {
        Some((known, _)) => *known,
        None => fail(&format!("{name} is no mutant of the list")),
    });
    marks::activate(known);
}

/// How a hunt ended.
struct Catch {
    seeds: u64,
    said: String,
}

/// Ends the process: 0 if every mutant was noticed every time, but for the known blind spots.
pub fn hunt(args: &Args, seconds: f64) -> ! {
    let mut survivors = Vec::new();
    for (name, what) in MUTANTS.iter().filter(|(name, _)| args.mutant.as_deref().is_none_or(|only| only == *name)) {
        let started = Instant::now();
        let caught: Vec<Option<Catch>> = (0..args.repeats).map(|round| hunt_one(args, seconds, name, round * SEEDS_APART)).collect();
        let after = started.elapsed().as_secs_f64() / args.repeats as f64;
        let mut seeds: Vec<u64> = caught.iter().flatten().map(|caught| caught.seeds).collect();
        seeds.sort_unstable();
        match (seeds.len() == caught.len(), seeds.get(seeds.len() / 2)) {
            (true, Some(median)) => {
                println!("{name} noticed after {median} seeds (at most {}), {after:.1} s: {what}", seeds[seeds.len() - 1])
            }
            _ => println!("{name} SURVIVES {} of {} hunts, {after:.1} s: {what}", caught.len() - seeds.len(), caught.len()),
        }
        if let Some(caught) = caught.iter().flatten().next() {
            println!("      {}", caught.said);
        }
        if seeds.len() < caught.len() {
            survivors.push(*name);
        }
    }
    println!("{} of {} mutants noticed; survivors: {survivors:?}", MUTANTS.len() - survivors.len(), MUTANTS.len());
    let new: Vec<&str> = survivors.into_iter().filter(|name| !UNNOTICED.contains(name)).collect();
    println!("of them not known before: {new:?}");
    std::process::exit(i32::from(!new.is_empty()));
}

fn hunt_one(args: &Args, seconds: f64, name: &str, first: u64) -> Option<Catch> {
    let mut command = Command::new(std::env::current_exe().expect("it runs"));
    let minutes = (seconds / 60.0).to_string();
    command.args(["--seeds", "1000000", "--minutes", &minutes, "--mutant", name, "--seed", &first.to_string()]);
    command.args(["--threads", &args.threads.to_string()]);
    match &args.collect {
        None => command.arg("--no-shrink"),
        Some(directory) => command.arg("--keep").arg(directory.join(format!("{name}.toml"))),
    };
    let output = command.output().expect("it runs again");
    if output.status.code() != Some(1) {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let mut lines = text.lines();
    let seed = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|seed| seed.parse::<u64>().ok());
    let said = lines.nth(1).unwrap_or("").chars().take(110).collect();
    if let Some(directory) = &args.collect {
        passes_without(&directory.join(format!("{name}.toml")));
    }
    Some(Catch { seeds: seed.unwrap_or(first) - first + 1, said })
}

/// A plan that fails without the bug shows another one.
fn passes_without(file: &Path) {
    if let Err(error) = Regression::read(file) {
        fail(&error);
    }
    let status = Command::new(std::env::current_exe().expect("it runs")).arg("--no-shrink").arg("--plan").arg(file).status();
    if !status.is_ok_and(|status| status.success()) {
        fail(&format!("{} fails without any known bug", file.display()));
    }
}
