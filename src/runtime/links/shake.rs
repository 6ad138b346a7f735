//! Moves the bytes of one handshake over a blocking socket, with one deadline for all of it. Refuses to read a byte more
//! than the handshake asks for.

use crate::peer::{Established, Handshake, Refusal};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("it closed the connection before the handshake was over")]
    Closed,
    #[error("the handshake was not over in time")]
    Late,
    #[error("{0}")]
    Io(io::Error),
}

fn io(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::Late,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Failure::Closed,
        _ => Failure::Io(error),
    }
}

/// Performs `handshake`; `out`: what it wants sent first.
pub fn shake(stream: &TcpStream, handshake: &mut Handshake, mut out: Vec<u8>, timeout: Duration) -> Result<Established, Failure> {
    let deadline = Instant::now() + timeout;
    stream.set_nodelay(true).and(stream.set_write_timeout(Some(timeout))).map_err(io)?;
    let mut buffer = [0; 128];
    loop {
        (&*stream).write_all(&out).map_err(io)?;
        out.clear();
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::Late);
        }
        stream.set_read_timeout(Some(left)).map_err(io)?;
        let wanted = handshake.wanted().min(buffer.len());
        let bytes = (&*stream).read(&mut buffer[..wanted]).map_err(io)?;
        if bytes == 0 {
            return Err(Failure::Closed);
        }
        let result = handshake.receive(&buffer[..bytes], &mut out);
        if let Ok(None) = result {
            continue;
        }
        // The last word: a proof, or a refusal that the other side may be too far gone to hear.
        let sent = (&*stream).write_all(&out).map_err(io);
        if result.is_err() {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let established = result?.expect("it is neither under way nor refused");
        return sent.map(|()| established);
    }
}

/// 32 bytes that nobody can guess.
pub fn nonce() -> [u8; 32] {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).expect("the kernel has random bytes");
    nonce
}
