//! One leader among candidates: waits to be elected, says so, leads until Ctrl-C or until leadership may be lost.
//!
//!     cargo run --example election -- [ADDRESS] PATH NAME
//!
//! The data of PATH are the leader's name and epoch. Refuses to believe in its leadership when the server is out of reach
//! for too long. See docs/recipes/election.md.

mod session;

use session::{PERSISTENT, arguments, close, connect, lost, persist};
use zk::Error;
use zookeeper_client as zk;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (address, rest) = arguments();
    let [path, name] = rest.as_slice() else { return Err("usage: election [ADDRESS] PATH NAME".into()) };
    loop {
        let client = connect(&address).await?;
        let ended = tokio::select! {
            ended = campaign(&client, path, name) => ended,
            pressed = tokio::signal::ctrl_c() => {
                println!("{name} resigns");
                close(client).await; // the candidate's node goes with the session, the next in line leads
                return Ok(pressed?);
            }
        };
        match ended {
            // Custom: the connection was reset on the way to leadership, and whether the node exists is not known.
            Ok(()) | Err(Error::SessionExpired | Error::RuntimeInconsistent | Error::Custom(_)) => println!("{name} starts over"),
            Err(error) => return Err(error.into()),
        }
        close(client).await;
    }
}

/// Waits for leadership and leads until it may be lost.
async fn campaign(client: &zk::Client, path: &str, name: &str) -> Result<(), Error> {
    // The names that Curator's LeaderLatch uses: Java and Rust programs can be candidates of one election.
    let prefix = zk::LockPrefix::new_curator(path, "latch-")?;
    let options = zk::LockOptions::new(zk::Acls::anyone_all()).with_ancestor_options(PERSISTENT)?;
    let leadership = client.lock(prefix, name.as_bytes(), options).await?;

    // Later leaders have created their nodes later: czxid serves as an epoch that only grows.
    let stat = persist(|| client.check_stat(leadership.lock_path())).await?;
    let epoch = stat.ok_or(Error::RuntimeInconsistent)?.czxid;

    // Written through `leadership`, this fails unless its node still exists at that very moment. Everything that a leader
    // writes to the tree should go this way: then a leader that has been replaced without knowing it cannot do harm.
    let announcement = format!("{name} {epoch}");
    persist(|| leadership.set_data(path, announcement.as_bytes(), None)).await?;
    println!("{name} leads, epoch {epoch}");

    lost(client).await;
    println!("{name} leads no more");
    Ok(())
}
