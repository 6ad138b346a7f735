//! Shared configuration: lines of KEY=VALUE in one node. Editors never overwrite each other, watchers see every change.
//!
//!     cargo run --example configuration -- [ADDRESS] PATH set KEY=VALUE...
//!     cargo run --example configuration -- [ADDRESS] PATH watch
//!
//! Refuses to write over a version that it has not read. See docs/recipes/configuration.md.

mod session;

use session::{PERSISTENT, arguments, close, connect, persist};
use std::collections::BTreeMap;
use zk::Error;
use zookeeper_client as zk;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (address, rest) = arguments();
    let words: Vec<&str> = rest.iter().map(String::as_str).collect();
    match words.as_slice() {
        [path, "watch"] => loop {
            // Watching owns nothing on the server: when the session is lost, a new one does as well.
            match watch(&connect(&address).await?, path).await {
                Error::SessionExpired => eprintln!("configuration: the session has expired, opening another"),
                error => return Err(error.into()),
            }
        },
        [path, "set", edits @ ..] if !edits.is_empty() => {
            let edits: Option<Vec<(&str, &str)>> = edits.iter().map(|edit| edit.split_once('=')).collect();
            let edits = edits.ok_or("every edit is KEY=VALUE")?;
            let client = connect(&address).await?;
            let version = persist(|| edit(&client, path, &edits)).await?;
            println!("version {version}");
            close(client).await;
            Ok(())
        }
        _ => Err("usage: configuration [ADDRESS] PATH set KEY=VALUE... | watch".into()),
    }
}

/// Reads, changes, and writes if nobody else has written since; the version written. An edit may be repeated, so a lost
/// answer needs no care.
async fn edit(client: &zk::Client, path: &str, edits: &[(&str, &str)]) -> Result<i32, Error> {
    client.mkdir(path, &PERSISTENT).await?;
    loop {
        let (data, stat) = client.get_data(path).await?;
        let text = String::from_utf8_lossy(&data).into_owned();
        let mut values: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        values.extend(edits.iter().copied());
        let changed: String = values.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        match client.set_data(path, changed.as_bytes(), Some(stat.version)).await {
            Ok(stat) => return Ok(stat.version),
            Err(Error::BadVersion) => continue, // somebody else was faster: read again
            Err(error) => return Err(error),
        }
    }
}

/// Prints the configuration now and after each change, until the session ends. Changes that come faster than they are
/// printed are printed as one: what is printed last is always the newest.
async fn watch(client: &zk::Client, path: &str) -> Error {
    loop {
        // Reading and watching are one request, so no change falls between the two.
        let changed = match persist(|| client.get_and_watch_data(path)).await {
            Ok((data, stat, changed)) => {
                let text = String::from_utf8_lossy(&data);
                println!("version {}: {}", stat.version, text.lines().collect::<Vec<_>>().join(" "));
                changed
            }
            Err(Error::NoNode) => match persist(|| client.check_and_watch_stat(path)).await {
                Ok((None, created)) => {
                    println!("absent");
                    created
                }
                Ok((Some(_), _)) => continue, // created in between
                Err(error) => return error,
            },
            Err(error) => return error,
        };
        changed.changed().await;
    }
}
