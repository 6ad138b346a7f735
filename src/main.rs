//! The program: arguments, settings, logging, start, exit code. Refuses to decide anything else.

use clap::Parser;
use falconer::cli::{self, Arguments, Command, Exit, Serve};
use falconer::config::{self, Config};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

// Sanitizers bring an allocator of their own.
#[cfg(not(asan))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command.unwrap_or_else(|| Command::Serve(Serve::default())) {
        Command::Client(command) => cli::run(&command).into(),
        Command::Doctor(arguments) => cli::doctor(&arguments).into(),
        Command::Ensemble(arguments) => cli::ensemble(&arguments).into(),
        Command::Recover(arguments) => cli::recover(&arguments).into(),
        Command::Serve(arguments) => serve(&arguments),
    }
}

fn serve(arguments: &Serve) -> ExitCode {
    let loaded = match config::load(&arguments.sources()) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("falconer: {error}");
            return Exit::Usage.into();
        }
    };
    if arguments.check {
        loaded.warnings.iter().for_each(|warning| eprintln!("falconer: {warning}"));
        // A reader that has had enough, such as `head`, is no reason to complain.
        let _ = std::io::stdout().write_all(loaded.config.to_toml().as_bytes());
        return Exit::Clean.into();
    }
    log_to_stderr(&loaded.config);
    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    match falconer::runtime::serve(loaded.config) {
        Ok(()) => Exit::Clean.into(),
        Err(error) => {
            eprintln!("falconer: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// FALCONER_LOG wins over the settings, and can name modules: `info,falconer::log=debug`.
fn log_to_stderr(config: &Config) {
    // glommio warns in several lines about its own buffers, which nobody here uses.
    let from_settings = || EnvFilter::new(format!("{},glommio=error", config.log.level));
    let filter = match std::env::var("FALCONER_LOG").map(EnvFilter::try_new) {
        Ok(Ok(filter)) => filter,
        Ok(Err(error)) => {
            eprintln!("falconer: FALCONER_LOG: {error}; logging as the settings say");
            from_settings()
        }
        Err(_) => from_settings(),
    };
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
}
