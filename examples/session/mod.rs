//! What the recipes share: which server, opening and closing a session, and trying again when a connection is lost.
//! Refuses to hide the loss of the session: that reaches every recipe, because each has to decide what it means.

#![allow(dead_code)] // each recipe uses a part of it

use std::future::Future;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use zookeeper_client as zk;

/// How long a silent client keeps its session, and with it its ephemeral nodes. Short: others wait as long for a dead one.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// A node that stays, for everybody.
pub const PERSISTENT: zk::CreateOptions<'static> = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());

/// A node that goes with the session that created it.
pub const EPHEMERAL: zk::CreateOptions<'static> = zk::CreateMode::Ephemeral.with_acls(zk::Acls::anyone_all());

/// The server's address and what follows it. Paths begin with a slash, so a first argument without one is an address.
pub fn arguments() -> (String, Vec<String>) {
    let mut rest: Vec<String> = std::env::args().skip(1).collect();
    let named = rest.first().is_some_and(|first| !first.starts_with('/'));
    let address = if named { rest.remove(0) } else { "127.0.0.1:2181".to_string() };
    (address, rest)
}

/// Opens a session. Tries for as long as a session lasts, then fails with `Timeout`.
pub async fn connect(address: &str) -> Result<zk::Client, zk::Error> {
    zk::Client::connector().with_session_timeout(SESSION_TIMEOUT).connect(address).await
}

/// Closes the session, so that its ephemeral nodes go now and not when it times out.
pub async fn close(client: zk::Client) {
    let mut states = client.state_watcher();
    drop(client);
    let closed = async { while !states.state().is_terminated() && !states.changed().await.is_terminated() {} };
    // A server that is away must not hold up the end of the program; the session then times out.
    let _ = timeout(Duration::from_secs(2), closed).await;
}

/// Tries until there is an answer. `ConnectionLoss` says that the answer is lost, not that nothing was done: use this for
/// requests that may be done twice, or notice after the loss that they were done.
pub async fn persist<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, zk::Error>
where
    F: Future<Output = Result<T, zk::Error>>,
{
    loop {
        match attempt().await {
            // A connection that is reset instead of closed comes through as the system's error.
            Err(zk::Error::ConnectionLoss | zk::Error::Custom(_)) => sleep(Duration::from_millis(100)).await,
            answer => return answer,
        }
    }
}

/// Returns when this client can no longer be sure of its session: it has expired, or the server was out of reach for so
/// long that it may have. The client notices silence after up to two thirds of the timeout, hence the last third here.
pub async fn lost(client: &zk::Client) {
    let grace = client.session_timeout() / 3;
    let mut states = client.state_watcher();
    let mut state = states.state();
    while !state.is_terminated() {
        state = match state {
            zk::SessionState::Disconnected => match timeout(grace, states.changed()).await {
                Ok(next) => next,
                Err(_) => return,
            },
            _ => states.changed().await,
        };
    }
}
