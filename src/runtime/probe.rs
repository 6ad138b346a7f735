//! What the kernel must be able to do, tried before anything else is touched. Each thing that is missing is one line that
//! says what and what to do about it. Refuses to work around: an older kernel is refused, not served more slowly.

use super::ring::{RECEIVE_BUFFER_BYTES, Ring};
use super::sys::{self, Bell};
use io_uring::{Probe, opcode};
use std::io;
use std::sync::Arc;

/// Locked memory that glommio insists on for one executor.
const EXECUTOR_LOCKED_BYTES: u64 = 512 << 10;
/// Locked memory that one core's rings take at most: three of glommio's and our own.
const CORE_LOCKED_BYTES: u64 = 640 << 10;

/// Why this machine cannot run the server, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("this kernel has no io_uring (Linux {0}): Linux 6.1 or newer is needed")]
    NoIoUring(String),
    #[error("io_uring is switched off by the sysctl kernel.io_uring_disabled = {0}: run `sysctl kernel.io_uring_disabled=0`")]
    Disabled(String),
    #[error(
        "io_uring is forbidden for this process: allow the system calls io_uring_setup, io_uring_enter and io_uring_register \
         in the container's seccomp profile (Docker: --security-opt seccomp=unconfined)"
    )]
    Forbidden,
    #[error("Linux {found} is too old: {missing} is missing, Linux 6.1 or newer is needed")]
    TooOld { found: String, missing: &'static str },
    #[error(
        "only {have_kib} KiB of memory may be locked, {cores} cores need {need_kib} KiB: raise it with `ulimit -l` or, for a \
         systemd service, LimitMEMLOCK="
    )]
    LockedMemory { have_kib: u64, need_kib: u64, cores: usize },
    #[error("io_uring cannot be set up: {0}")]
    Other(io::Error),
}

/// Tries everything that `cores` threads will need.
pub fn probe(cores: usize) -> Result<(), ProbeError> {
    let locked = sys::locked_memory().soft;
    check_locked_memory(locked, sys::may_lock_memory(), cores)?;
    let uring = Ring::builder().build(8).map_err(|error| refused(&error, locked, cores))?;
    let mut supported = Probe::new();
    uring.submitter().register_probe(&mut supported).map_err(ProbeError::Other)?;
    let needed = [
        (opcode::MsgRingData::CODE, "waking another ring (MSG_RING)"),
        (opcode::RecvMulti::CODE, "receiving (RECV)"),
        (opcode::Send::CODE, "sending (SEND)"),
        (opcode::AcceptMulti::CODE, "accepting (ACCEPT)"),
        (opcode::AsyncCancel::CODE, "cancelling (ASYNC_CANCEL)"),
    ];
    match needed.iter().find(|(code, _)| !supported.is_supported(*code)) {
        Some((_, missing)) => return Err(ProbeError::TooOld { found: release(), missing }),
        None => drop(uring),
    }
    let bell = Bell::new().map_err(ProbeError::Other)?;
    match Ring::new(Arc::new(bell), 8, RECEIVE_BUFFER_BYTES) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Err(ProbeError::TooOld { found: release(), missing: "a ring of provided buffers" })
        }
        made => made.map(drop).map_err(|error| refused(&error, locked, cores)),
    }
}

fn check_locked_memory(soft: u64, exempt: bool, cores: usize) -> Result<(), ProbeError> {
    let need = (cores as u64 * CORE_LOCKED_BYTES).max(EXECUTOR_LOCKED_BYTES);
    if soft < EXECUTOR_LOCKED_BYTES || (soft < need && !exempt) {
        return Err(ProbeError::LockedMemory { have_kib: soft >> 10, need_kib: need >> 10, cores });
    }
    Ok(())
}

/// What the kernel's refusal of a ring means.
fn refused(error: &io::Error, locked: u64, cores: usize) -> ProbeError {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => ProbeError::NoIoUring(release()),
        Some(libc::EINVAL) => ProbeError::TooOld { found: release(), missing: "deferred task running (DEFER_TASKRUN)" },
        Some(libc::EPERM | libc::EACCES) => match disabled() {
            Some(level) => ProbeError::Disabled(level),
            None => ProbeError::Forbidden,
        },
        Some(libc::ENOMEM) => {
            let need_kib = (cores as u64 * CORE_LOCKED_BYTES) >> 10;
            ProbeError::LockedMemory { have_kib: locked >> 10, need_kib, cores }
        }
        code => ProbeError::Other(code.map_or_else(|| io::ErrorKind::Other.into(), io::Error::from_raw_os_error)),
    }
}

fn proc_value(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_string())
}

fn disabled() -> Option<String> {
    proc_value("/proc/sys/kernel/io_uring_disabled").filter(|level| level != "0")
}

fn release() -> String {
    proc_value("/proc/sys/kernel/osrelease").unwrap_or_else(|| "of unknown version".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_will_do() {
        probe(1).unwrap();
    }

    #[test]
    fn every_refusal_is_one_line_with_a_remedy() {
        for (errno, remedy) in [(libc::ENOSYS, "6.1"), (libc::EINVAL, "6.1"), (libc::ENOMEM, "ulimit -l"), (libc::EPERM, "io_uring")] {
            let text = refused(&io::Error::from_raw_os_error(errno), 64 << 10, 3).to_string();
            assert!(text.contains(remedy) && !text.contains('\n'), "{text}");
        }
        let little = check_locked_memory(64 << 10, false, 2).unwrap_err().to_string();
        assert!(little.contains("64 KiB") && little.contains("LimitMEMLOCK"), "{little}");
        check_locked_memory(8 << 20, false, 3).unwrap();
        check_locked_memory(1 << 20, true, 64).unwrap();
    }
}
