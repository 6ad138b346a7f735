//! `falconer recover --show`: what a data directory holds, and what would be lost behind damage. For the moment after a
//! server has refused to start. Reads only; refuses to repair.

use super::Exit;
use crate::log::loss::describe_loss;
use crate::log::recovery::Recovered;
use crate::runtime::files::FileDisk;
use clap::Args;
use std::io::{self, Write};
use std::path::PathBuf;

/// Which directory to look at.
#[derive(Args, Debug)]
pub struct Recover {
    /// Where snapshots and the log lie. No server may be running on it.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where the log lies, if it is elsewhere (dataLogDir).
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// Show what is there and what would be lost. The only thing this command does.
    #[arg(long, required = true)]
    pub show: bool,
}

/// Prints to standard output. Exit 0: the directory is sound; 3: it is damaged.
pub fn run(recover: &Recover) -> Exit {
    let log_dir = recover.log_dir.as_ref().unwrap_or(&recover.data_dir);
    let disk = match FileDisk::open_existing(&recover.data_dir, log_dir) {
        Ok(disk) => disk,
        Err(error) => {
            eprintln!("falconer: {error}");
            return Exit::Failed;
        }
    };
    let (text, exit) = match describe_loss(&disk) {
        Ok(Ok(sound)) => (describe(&sound), Exit::Clean),
        Ok(Err(loss)) => (loss.to_string(), Exit::Corrupt),
        Err(error) => (error.to_string(), Exit::Corrupt),
    };
    // A reader that has had enough, such as `head`, is no reason to complain.
    let _ = writeln!(io::stdout(), "{text}");
    exit
}

fn describe(found: &Recovered) -> String {
    let snapshot = match &found.snapshot {
        Some(pointer) => format!("the snapshot at zxid 0x{:x} ({} bytes)", pointer.position.zxid, pointer.bytes),
        None => "no snapshot".to_string(),
    };
    let torn = match &found.cut {
        Some((file, offset)) => format!("\n{file}: a write was torn at byte {offset}; nobody was told of it, the next start cuts it"),
        None => String::new(),
    };
    format!("sound: {snapshot} and the log up to zxid 0x{:x}{torn}", found.tail.zxid)
}
