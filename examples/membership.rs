//! Who is alive: joins a group under a name and prints the members whenever they change, until Ctrl-C.
//!
//!     cargo run --example membership -- [ADDRESS] PATH NAME
//!
//! Refuses to share a name: a second member of the same name waits until the first is gone. See docs/recipes/membership.md.

mod session;

use session::{EPHEMERAL, PERSISTENT, arguments, close, connect, persist};
use zk::Error;
use zookeeper_client as zk;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (address, rest) = arguments();
    let [group, name] = rest.as_slice() else { return Err("usage: membership [ADDRESS] PATH NAME".into()) };
    loop {
        let client = connect(&address).await?;
        let error = tokio::select! {
            error = take_part(&client, group, name) => error,
            pressed = tokio::signal::ctrl_c() => {
                close(client).await; // leaves at once: the node goes with the session
                return Ok(pressed?);
            }
        };
        match error {
            // The member's node is gone, for the others this member has left: it has to join again.
            Error::SessionExpired => eprintln!("membership: the session has expired, joining again"),
            error => return Err(error.into()),
        }
    }
}

/// Joins and prints the members until the session ends.
async fn take_part(client: &zk::Client, group: &str, name: &str) -> Error {
    match join(client, group, name).await {
        Ok(()) => print_members(client, group).await,
        Err(error) => error,
    }
}

async fn join(client: &zk::Client, group: &str, name: &str) -> Result<(), Error> {
    persist(|| client.mkdir(group, &PERSISTENT)).await?;
    let path = format!("{group}/{name}");
    loop {
        match persist(|| client.create(&path, b"", &EPHEMERAL)).await {
            Ok(_) => return Ok(()),
            Err(Error::NodeExists) => {}
            Err(error) => return Err(error),
        }
        let (stat, changed) = persist(|| client.check_and_watch_stat(&path)).await?;
        match stat.map(|stat| stat.ephemeral_owner) {
            None => {}
            Some(owner) if owner == client.session_id().0 => return Ok(()), // ours, the answer was lost
            Some(_) => {
                // Most likely what we were before a crash, whose session has not timed out yet.
                eprintln!("membership: {name} is taken, waiting for it to go");
                changed.changed().await;
            }
        }
    }
}

async fn print_members(client: &zk::Client, group: &str) -> Error {
    loop {
        match persist(|| client.list_and_watch_children(group)).await {
            Ok((mut members, changed)) => {
                members.sort_unstable();
                println!("members: {}", members.join(" "));
                changed.changed().await;
            }
            Err(error) => return error,
        }
    }
}
