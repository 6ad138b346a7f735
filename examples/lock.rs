//! A lock for commands, like flock(1) between machines: waits for the lock, runs the command, releases the lock.
//!
//!     cargo run --example lock -- [ADDRESS] PATH COMMAND [ARGUMENT...]
//!
//! The command finds its fencing token (a number that only grows from holder to holder) in `LOCK_TOKEN`. When the lock may
//! be lost, the command is killed. Refuses to go on without the lock. See docs/recipes/lock.md.

mod session;

use session::{PERSISTENT, arguments, close, connect, lost, persist};
use std::process::ExitCode;
use tokio::process::Command;
use zookeeper_client as zk;

/// Tells a lost lock from every exit code that commands use themselves; 75 means "try again" in sysexits.h.
const LOCK_LOST: u8 = 75;

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let (address, rest) = arguments();
    let [path, command @ ..] = rest.as_slice() else { return usage() };
    if command.is_empty() {
        return usage();
    }
    loop {
        let client = connect(&address).await?;
        let code = run_locked(&client, path, command).await;
        close(client).await;
        if let Some(code) = code? {
            return Ok(code);
        }
    }
}

fn usage() -> Result<ExitCode, Box<dyn std::error::Error>> {
    eprintln!("usage: lock [ADDRESS] PATH COMMAND [ARGUMENT...]");
    Ok(ExitCode::from(2))
}

/// Holds the lock while the command runs; the command's exit code. None: the connection broke on the way to the lock, and a
/// new session has to queue again.
async fn run_locked(client: &zk::Client, path: &str, command: &[String]) -> Result<Option<ExitCode>, Box<dyn std::error::Error>> {
    // The names that Curator's InterProcessMutex uses, so that Java and Rust programs can share a lock.
    let prefix = zk::LockPrefix::new_curator(path, "lock-")?;
    let options = zk::LockOptions::new(zk::Acls::anyone_all()).with_ancestor_options(PERSISTENT)?;
    let lock = match client.lock(prefix, command[0].as_bytes(), options).await {
        // The system's error for a connection that is reset instead of closed. Whether the lock's node exists is not known:
        // it goes with the session.
        Err(zk::Error::Custom(_)) => return Ok(None),
        lock => lock?,
    };

    // Every holder has created its node later than the holders before it: czxid is a fencing token for free.
    let Some(stat) = persist(|| client.check_stat(lock.lock_path())).await? else {
        return Err(format!("{} was removed by somebody else", lock.lock_path()).into());
    };
    let mut child = Command::new(&command[0]).args(&command[1..]).env("LOCK_TOKEN", stat.czxid.to_string()).spawn()?;
    let code = tokio::select! {
        status = child.wait() => status?.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
        () = lost(client) => {
            child.kill().await?;
            eprintln!("lock: the session may be lost, the command was killed");
            LOCK_LOST
        }
    };
    // Dropping the lock removes its node, which wakes the next in line.
    drop(lock);
    Ok(Some(ExitCode::from(code)))
}
