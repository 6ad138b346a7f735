//! `falconer-loadgen`: load for a server that speaks the ZooKeeper client protocol, with every reply checked.
//!
//! ```text
//! main ── args ──> scenario ── control ──> the tree is prepared and tidied
//!                     └─> conductor: stages, looks at processes ──> worker (one per thread): event loop
//!                            report <── tally <────────────────────── session (frames, ids) + workload (asks, checks)
//! ```
//!
//! Exit status: 0 every reply was right, 1 some were not, 2 the run could not be made or was broken off.
//! Refuses to touch anything outside `/falconer-loadgen`.

#![forbid(unsafe_code)]

mod args;
mod clock;
mod conductor;
mod content;
mod control;
mod frames;
mod process;
mod report;
mod scenario;
mod session;
mod tally;
mod worker;
mod workload;

use args::{Arguments, Scenario};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let scenario = arguments.scenario.unwrap_or(Scenario::Mixed(arguments.canonical));
    let result = scenario.validate().and_then(|()| scenario::play(&scenario).map_err(|error| error.to_string()));
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            eprintln!("falconer-loadgen: {error}");
            return ExitCode::from(2);
        }
    };
    match scenario.target().json {
        true => println!("{}", report.to_json()),
        false => print!("{report}"),
    }
    ExitCode::from(u8::from(!report.is_clean()))
}
