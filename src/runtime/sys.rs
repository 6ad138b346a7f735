//! The few system calls that neither the standard library nor the crates in use wrap: eventfd, the cores this process may
//! run on, resource limits, signals to children. Refuses to hold any policy: numbers in, numbers out.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// By which threads without a ring wake one that has: an eventfd that the ring reads.
pub struct Bell(OwnedFd);

impl Bell {
    pub fn new() -> io::Result<Bell> {
        // SAFETY: a plain system call without pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made and belongs to nobody else.
        Ok(Bell(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Wakes the ring, now or at its next wait.
    pub fn ring(&self) {
        let one = 1u64;
        // SAFETY: eight readable bytes; an eventfd takes exactly eight.
        let written = unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
        assert_eq!(written, 8, "an eventfd takes its eight bytes: {}", io::Error::last_os_error());
    }

    /// What the ring reads eight bytes from.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The cores this process may run on, in order. Empty if the kernel does not say.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: a plain array of integers, for which all zeros is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most the given size.
    let failed = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0;
    if failed {
        return Vec::new();
    }
    // SAFETY: the index is below the size of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// A soft and a hard limit; `u64::MAX` is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

fn limit(resource: libc::__rlimit_resource_t) -> Limit {
    let mut found = libc::rlimit { rlim_cur: u64::MAX, rlim_max: u64::MAX };
    // SAFETY: the kernel writes one rlimit. If it fails, the values stay: no limit.
    unsafe { libc::getrlimit(resource, &raw mut found) };
    Limit { soft: found.rlim_cur, hard: found.rlim_max }
}

/// Bytes that may be locked in memory, which io_uring counts against.
pub fn locked_memory() -> Limit {
    limit(libc::RLIMIT_MEMLOCK)
}

/// Descriptors that may be open.
pub fn open_files() -> Limit {
    limit(libc::RLIMIT_NOFILE)
}

/// Raises the soft limit of open files to the hard one: each client is a descriptor. Returns what holds now.
pub fn raise_open_files() -> u64 {
    let Limit { soft, hard } = open_files();
    let wanted = libc::rlimit { rlim_cur: hard, rlim_max: hard };
    // SAFETY: the kernel reads one rlimit.
    let failed = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) } != 0;
    if failed { soft } else { hard }
}

/// Whether this process is exempt from the limit of locked memory (CAP_IPC_LOCK).
pub fn may_lock_memory() -> bool {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).map(str::trim);
    effective.and_then(|bits| u64::from_str_radix(bits, 16).ok()).is_some_and(|bits| bits & CAP_IPC_LOCK != 0)
}

/// Drops the file's clean pages from the page cache, so that the next read comes from the disk.
pub fn drop_page_cache(file: &std::fs::File) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file` is borrowed, and the call touches no memory of ours.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// The process that `command` starts is killed when the thread that starts it ends, however that comes about.
pub fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: between fork and exec only prctl and getppid are called, which are safe there.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // It may have ended before the kernel was told.
            if libc::getppid() as u32 != parent {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        });
    }
}

/// SIGTERM to a child that was not waited for yet, so that its number is still its own.
pub fn terminate(child: &Child) {
    // SAFETY: a plain system call without pointers.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_runs_somewhere_and_may_open_files() {
        assert!(!allowed_cpus().is_empty());
        let now = raise_open_files();
        assert_eq!(open_files().soft, now);
        assert!(locked_memory().soft <= locked_memory().hard);
    }
}
