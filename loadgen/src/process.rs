//! CPU time and memory of a process, from /proc: the sum over its threads' schedstat, exact to a scheduler tick, and the
//! resident set. Threads that have ended are missing from that sum; the coarser clock of the whole process shows it.
//! Refuses to guess: a process that cannot be read is an error.

use crate::figures::{self, Figures};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

/// One step of the whole process's clock (USER_HZ is 100 on every architecture we run on).
const TICK_NS: u64 = 10_000_000;
/// Two readings of two rounded counters may be this much apart with nothing missing.
const ROUNDING_NS: u64 = 4 * TICK_NS;

/// A process that cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[error("process {pid}: {reason}")]
pub struct ProcessError {
    pid: u32,
    reason: String,
}

/// One look at a process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Run time of every thread, ns.
    threads: BTreeMap<u32, u64>,
    /// Run time of all threads there ever were, in steps of a tick.
    whole_ns: u64,
    pub rss_bytes: u64,
    /// Written to disks so far; 0 if that cannot be seen.
    pub disk_bytes: u64,
}

impl Sample {
    /// Looks at a process now.
    pub fn of(pid: u32) -> Result<Sample, ProcessError> {
        let error = |reason: String| ProcessError { pid, reason };
        let mut threads = BTreeMap::new();
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| error(e.to_string()))?;
        for task in tasks.flatten() {
            // A thread may end between the listing and the look.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            let (Some(tid), Some(run_ns)) = (task.file_name().to_str().and_then(|name| name.parse().ok()), first_number(&text)) else {
                continue;
            };
            threads.insert(tid, run_ns);
        }
        if threads.is_empty() {
            return Err(error("no readable thread in /proc (does the kernel have schedstat?)".into()));
        }
        let whole_ns = whole_ns(pid).ok_or_else(|| error("no readable stat in /proc".into()))?;
        let rss_bytes = rss_bytes(pid).ok_or_else(|| error("no readable resident set in /proc".into()))?;
        Ok(Sample { threads, whole_ns, rss_bytes, disk_bytes: disk_bytes(pid).unwrap_or(0) })
    }

    /// CPU time used since an earlier look, ns.
    pub fn cpu_ns_since(&self, earlier: &Sample) -> u64 {
        let before = |tid| earlier.threads.get(tid).copied().unwrap_or(0);
        let exact = self.threads.iter().map(|(tid, run_ns)| run_ns.saturating_sub(before(tid))).sum();
        let whole = self.whole_ns.saturating_sub(earlier.whole_ns);
        if whole > exact + ROUNDING_NS { whole } else { exact }
    }
}

/// User and system time; the name in front of them may hold anything, but ends with the last parenthesis.
fn whole_ns(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) * TICK_NS)
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// smaps_rollup counts exactly; status is the kernel's cheaper estimate, readable in more places.
fn rss_bytes(pid: u32) -> Option<u64> {
    let from = |file: &str, field: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(field))?;
        Some(first_number(line)? * 1024)
    };
    from("smaps_rollup", "Rss:").or_else(|| from("status", "VmRSS:"))
}

/// What the calling thread has run, and what it has waited for a core, ns since it started.
pub fn thread_run_wait_ns() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Bytes that a process has had written to disks so far; None if the kernel does not say, or not to us.
fn disk_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes:")).and_then(first_number)
}

/// Several server processes together, and this one; and the servers that can be asked for their numbers.
#[derive(Default)]
pub struct Watched {
    pub servers: Vec<u32>,
    pub mntr: Vec<SocketAddr>,
    pub pages: Vec<SocketAddr>,
}

/// One look at everything that is watched.
#[derive(Clone, Debug)]
pub struct Look {
    servers: Vec<Sample>,
    own: Sample,
    /// What each server and each page says, by its address; empty unless it was a close look.
    pub figures: BTreeMap<String, Figures>,
}

impl Watched {
    pub fn look(&self) -> Result<Look, ProcessError> {
        let servers = self.servers.iter().map(|&pid| Sample::of(pid)).collect::<Result<_, _>>()?;
        Ok(Look { servers, own: Sample::of(std::process::id())?, figures: BTreeMap::new() })
    }

    /// As [`Watched::look`], with what the servers say of themselves.
    pub fn look_closely(&self) -> Result<Look, ProcessError> {
        let of_mntr = self.mntr.iter().map(|server| (server.to_string(), figures::of_mntr(*server)));
        let of_pages = self.pages.iter().map(|page| (format!("{page}/metrics"), figures::of_page(*page)));
        let figures = of_mntr.chain(of_pages).filter(|(_, figures)| !figures.is_empty()).collect();
        Ok(Look { figures, ..self.look()? })
    }
}

impl Look {
    /// CPU time of all servers since an earlier look, ns; None if none is watched.
    pub fn server_cpu_ns_since(&self, earlier: &Look) -> Option<u64> {
        let pairs = self.servers.iter().zip(&earlier.servers);
        (!self.servers.is_empty()).then(|| pairs.map(|(now, before)| now.cpu_ns_since(before)).sum())
    }

    /// Bytes that all servers have written to disks since an earlier look; None if none is watched.
    pub fn server_disk_bytes_since(&self, earlier: &Look) -> Option<u64> {
        let pairs = self.servers.iter().zip(&earlier.servers);
        (!self.servers.is_empty()).then(|| pairs.map(|(now, before)| now.disk_bytes.saturating_sub(before.disk_bytes)).sum())
    }

    pub fn own_cpu_ns_since(&self, earlier: &Look) -> u64 {
        self.own.cpu_ns_since(&earlier.own)
    }

    /// Resident set of all servers; None if none is watched.
    pub fn server_rss_bytes(&self) -> Option<u64> {
        (!self.servers.is_empty()).then(|| self.servers.iter().map(|sample| sample.rss_bytes).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cpu_time_and_memory_are_seen() {
        let watched = Watched { servers: vec![std::process::id()], ..Watched::default() };
        let before = watched.look().unwrap();
        let start = std::time::Instant::now();
        let ballast = vec![1u8; 64 << 20];
        while start.elapsed().as_millis() < 60 {
            std::hint::black_box(&ballast);
        }
        let after = watched.look().unwrap();
        assert!(after.own_cpu_ns_since(&before) > 5_000_000);
        assert!(after.server_rss_bytes().unwrap() > before.server_rss_bytes().unwrap() + (48 << 20));
    }

    #[test]
    fn threads_that_came_and_went_do_not_count_backwards() {
        let sample =
            |threads: &[(u32, u64)]| Sample { threads: threads.iter().copied().collect(), whole_ns: 0, rss_bytes: 0, disk_bytes: 0 };
        assert_eq!(sample(&[(1, 50), (3, 7)]).cpu_ns_since(&sample(&[(1, 20), (2, 1000)])), 37);
    }

    #[test]
    fn the_time_of_a_thread_that_has_ended_counts() {
        let before = Sample::of(std::process::id()).unwrap();
        let spin = || {
            let start = std::time::Instant::now();
            while start.elapsed().as_millis() < 400 {
                std::hint::spin_loop();
            }
        };
        std::thread::spawn(spin).join().unwrap();
        let used_ns = Sample::of(std::process::id()).unwrap().cpu_ns_since(&before);
        assert!(used_ns > 50_000_000, "{used_ns} ns");
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(Sample::of(u32::MAX / 2).is_err());
    }
}
