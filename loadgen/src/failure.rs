//! Why a worker gave up, and whether that is the server's fault. Refuses to call a server wrong that could not be
//! reached in the first place.

use crate::session::Broken;
use crate::tally::Miss;
use std::io;

/// What ended a connection.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("{0}{hint}", hint = hint(.0))]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Session(#[from] Broken),
}

/// Why a worker gave up.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("connection {number}: {cause}")]
    Connection {
        number: u32,
        /// Whether its session was open before.
        open: bool,
        cause: Cause,
    },
    #[error("waiting for sockets: {0}")]
    Poll(#[from] io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    const EMFILE: i32 = 24;
    match error.raw_os_error() {
        Some(EMFILE) => " (raise `ulimit -n`)",
        _ => "",
    }
}

impl Cause {
    /// Whether another connection can take the session up again. What breaks the protocol ends the run.
    pub fn is_lost_connection(&self) -> bool {
        match self {
            Cause::Socket(error) => error.raw_os_error() != Some(24),
            Cause::Session(broken) => matches!(
                broken,
                Broken::ClosedByServer { .. } | Broken::Silent(_) | Broken::NoHandshake { .. } | Broken::Refused | Broken::Expired
            ),
        }
    }
}

impl WorkerError {
    /// What the server did wrong; None if the run could not be made.
    pub fn miss(&self) -> Option<Miss> {
        let WorkerError::Connection { open, cause, .. } = self else { return None };
        match cause {
            Cause::Session(Broken::WrongXid { .. } | Broken::UnexpectedPing) => Some(Miss::ReplyOrder),
            Cause::Session(Broken::ZxidWentBack { .. }) => Some(Miss::ZxidWentBack),
            Cause::Session(Broken::LostReply { .. }) => Some(Miss::LostReply),
            Cause::Session(Broken::Length(_) | Broken::Record(_)) => Some(Miss::Malformed),
            Cause::Session(Broken::ClosedByServer { .. } | Broken::Silent(_) | Broken::Expired) => Some(Miss::Connection),
            Cause::Session(Broken::Refused | Broken::NoHandshake { .. } | Broken::AuthRefused(_)) => None,
            Cause::Socket(_) => open.then_some(Miss::Connection),
        }
    }
}
