//! `falconer doctor`: looks at the machine before the server runs on it: kernel, limits, clock, processor, memory pages,
//! and the disk under the data directory, whose durable writes it times. Each finding is a line, with the remedy where
//! one is needed. Leaves nothing behind but does write to the disk; refuses to change any setting.

use super::Exit;
use crate::limits::BLOCK_BYTES;
use crate::runtime::{locked_memory, open_files, probe};
use crate::wire::aligned::AlignedBuf;
use clap::Args;
use hdrhistogram::Histogram;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The trial writes round and round in a file of this size, written beforehand: as the log does.
const TRIAL_BYTES: u64 = 4 << 20;
/// Open files below this limit the clients.
const OPEN_FILES_WANTED: u64 = 10_000;
/// Durable writes slower than this (p99) are felt by clients, and by far.
const SLOW: Duration = Duration::from_millis(5);
const VERY_SLOW: Duration = Duration::from_millis(50);

/// Where the server will keep its data, and how long to try the disk.
#[derive(Args, Debug)]
pub struct Doctor {
    /// An existing directory on the disk that will hold the log.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub data_dir: PathBuf,
    /// Time durable writes for so long; 0 leaves that out.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(..=600))]
    pub seconds: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Verdict {
    Good,
    /// Works, but costs something.
    Advice,
    /// The server will not start, or not well.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Finding {
    verdict: Verdict,
    text: String,
}

fn good(text: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Good, text: text.into() }
}

fn advice(text: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Advice, text: text.into() }
}

fn bad(text: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Bad, text: text.into() }
}

/// Prints to standard output. Exit 0: the server will run; 1: something has to be changed first.
pub fn run(doctor: &Doctor) -> Exit {
    let mut worst = Verdict::Good;
    for finding in machine().into_iter().chain(disk(&doctor.data_dir, Duration::from_secs(doctor.seconds))) {
        let mark = match finding.verdict {
            Verdict::Good => "ok     ",
            Verdict::Advice => "advice ",
            Verdict::Bad => "BAD    ",
        };
        worst = worst.max(finding.verdict);
        // A reader that has had enough, such as `head`, is no reason to complain.
        let _ = writeln!(io::stdout(), "{mark}{}", finding.text);
    }
    if worst == Verdict::Bad { Exit::Failed } else { Exit::Clean }
}

/// A file of the kernel's, without the end of its line; None if there is none.
fn kernel_file(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_string())
}

fn machine() -> Vec<Finding> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let release = kernel_file("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut found = vec![match probe(cores) {
        Ok(()) => good(format!("Linux {release}: io_uring has what the server needs on {cores} cores")),
        Err(error) => bad(error.to_string()),
    }];
    found.push(match locked_memory().soft {
        u64::MAX => good("locked memory: no limit"),
        soft => good(format!("locked memory: {} MiB", soft >> 20)),
    });
    found.push(judge_open_files(open_files().hard));
    let clock = kernel_file("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    found.extend(clock.map(|clock| judge_clock(&clock)));
    let governor = kernel_file("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    found.extend(governor.map(|governor| judge_governor(&governor)));
    let pages = kernel_file("/sys/kernel/mm/transparent_hugepage/enabled");
    found.extend(pages.map(|pages| judge_huge_pages(&pages)));
    let backlog = kernel_file("/proc/sys/net/core/somaxconn").and_then(|text| text.parse().ok());
    found.extend(backlog.map(judge_backlog));
    let swappiness = kernel_file("/proc/sys/vm/swappiness").and_then(|text| text.parse().ok());
    let swap = kernel_file("/proc/swaps").is_some_and(|text| text.lines().count() > 1);
    found.extend(swappiness.filter(|_| swap).map(judge_swap));
    found
}

fn judge_open_files(hard: u64) -> Finding {
    match hard {
        u64::MAX => good("open files: no limit"),
        hard if hard >= OPEN_FILES_WANTED => good(format!("open files: {hard}")),
        hard => advice(format!("open files: {hard}, and each client is one: raise `ulimit -Hn`, or LimitNOFILE= of the systemd unit")),
    }
}

fn judge_clock(clock: &str) -> Finding {
    match clock {
        "tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page" | "arch_sys_counter" => good(format!("clock source: {clock}")),
        slow => {
            advice(format!("clock source: {slow} makes each look at the clock a system call: boot with clocksource=tsc if it is stable"))
        }
    }
}

fn judge_governor(governor: &str) -> Finding {
    match governor {
        "performance" => good("processor governor: performance"),
        other => advice(format!("processor governor: {other} slows lone requests: `cpupower frequency-set -g performance`")),
    }
}

fn judge_huge_pages(text: &str) -> Finding {
    let chosen = text.split(['[', ']']).nth(1).unwrap_or(text);
    match chosen {
        "always" => advice("huge pages: always can stall an allocation: `echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`"),
        other => good(format!("huge pages: {other}")),
    }
}

fn judge_backlog(somaxconn: u64) -> Finding {
    match somaxconn {
        small if small < 1024 => advice(format!("accept queue: net.core.somaxconn = {small} cuts client.backlog: raise it to 4096")),
        enough => good(format!("accept queue: net.core.somaxconn = {enough}")),
    }
}

fn judge_swap(swappiness: u64) -> Finding {
    match swappiness {
        high if high > 10 => advice(format!("swap is on and vm.swappiness = {high}: a node that was paged out is a disk read; set 1")),
        low => good(format!("swap is on, vm.swappiness = {low}")),
    }
}

/// How long a durable write of a block takes in a directory: ns, in a histogram, measured for `length`. Leaves nothing there.
pub fn durable_writes(dir: &Path, length: Duration) -> io::Result<(bool, Histogram<u64>)> {
    // A name that nobody else has: it is removed afterwards.
    let path = dir.join(format!("falconer-doctor-{}.tmp", std::process::id()));
    let result = time_writes(&path, length);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => result.and(Err(error)),
        _ => result,
    }
}

/// The disk under a directory: file system, write cache, and how long a durable write takes.
fn disk(dir: &Path, length: Duration) -> Vec<Finding> {
    let metadata = match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => return vec![bad(format!("{}: not a directory", dir.display()))],
        Err(error) => return vec![bad(format!("{}: {error}", dir.display()))],
    };
    let mut found = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if let Some((kind, options)) = dir.canonicalize().ok().and_then(|dir| mount_of(&mounts, &dir)) {
        found.push(judge_file_system(&kind, &options));
    }
    found.extend(write_cache(metadata.dev()));
    if length.is_zero() {
        return found;
    }
    match durable_writes(dir, length) {
        Ok((direct, latencies)) => {
            found.push(match direct {
                true => good("O_DIRECT: taken"),
                false => advice("O_DIRECT: refused by the file system: the log goes through the page cache, which costs time"),
            });
            found.push(judge_writes(&latencies));
        }
        Err(error) => found.push(bad(format!("{}: a trial file: {error}", dir.display()))),
    }
    found
}

/// File system and options of the mount that a path lies on.
fn mount_of(mounts: &str, path: &Path) -> Option<(String, String)> {
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|fields| fields.len() >= 4);
    // Later mounts cover earlier ones at the same place.
    let best = fields.filter(|fields| path.starts_with(fields[1])).max_by_key(|fields| fields[1].len())?;
    Some((best[2].to_string(), best[3].to_string()))
}

fn judge_file_system(kind: &str, options: &str) -> Finding {
    let unsafe_option = options.split(',').find(|option| matches!(*option, "nobarrier" | "barrier=0"));
    match (kind, unsafe_option) {
        (_, Some(option)) => bad(format!("file system: {kind} mounted with {option}: a power cut loses what was acknowledged; remove it")),
        ("tmpfs" | "ramfs", _) => advice(format!("file system: {kind} is memory: nothing survives a restart of the machine")),
        ("nfs" | "nfs4" | "cifs" | "fuse" | "9p", _) => {
            advice(format!("file system: {kind}: use a local disk; locks and durability depend on others"))
        }
        ("ext4" | "xfs", _) => good(format!("file system: {kind}")),
        (other, _) => good(format!("file system: {other} (ext4 and xfs are the ones tried most)")),
    }
}

/// Whether the disk says that it holds writes in a volatile cache.
fn write_cache(device: u64) -> Option<Finding> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let base = format!("/sys/dev/block/{major}:{minor}");
    // A partition's queue is that of its disk.
    let text = kernel_file(&format!("{base}/queue/write_cache")).or_else(|| kernel_file(&format!("{base}/../queue/write_cache")))?;
    Some(match text.as_str() {
        "write through" => good("write cache: write through: what the disk has acknowledged is durable"),
        other => good(format!("write cache: {other}: every durable write flushes it")),
    })
}

/// Writes blocks in turn to a new file, each durable before the next. Whether O_DIRECT was taken, and the times in ns.
fn time_writes(path: &Path, length: Duration) -> io::Result<(bool, Histogram<u64>)> {
    let (file, direct) = open_trial(path)?;
    let block = AlignedBuf::with_capacity(BLOCK_BYTES);
    for offset in (0..TRIAL_BYTES).step_by(BLOCK_BYTES) {
        file.write_all_at(&block, offset)?;
    }
    let mut latencies = Histogram::new_with_bounds(1000, 60_000_000_000, 3).expect("constant bounds");
    let (begin, mut offset) = (Instant::now(), 0);
    while begin.elapsed() < length {
        let start = Instant::now();
        file.write_all_at(&block, offset)?;
        latencies.saturating_record(start.elapsed().as_nanos() as u64);
        offset = (offset + BLOCK_BYTES as u64) % TRIAL_BYTES;
    }
    Ok((direct, latencies))
}

/// A new file whose writes are durable, past the page cache if the file system lets it.
fn open_trial(path: &Path) -> io::Result<(File, bool)> {
    let open = |flags| OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(path);
    match open(libc::O_DSYNC | libc::O_DIRECT) {
        Ok(file) => match file.write_all_at(&AlignedBuf::with_capacity(BLOCK_BYTES), 0) {
            Ok(()) => return Ok((file, true)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => fs::remove_file(path)?,
            Err(error) => return Err(error),
        },
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        },
        Err(error) => return Err(error),
    }
    Ok((open(libc::O_DSYNC)?, false))
}

fn judge_writes(latencies: &Histogram<u64>) -> Finding {
    let at = |quantile| Duration::from_nanos(latencies.value_at_quantile(quantile));
    let (p50, p99, max) = (at(0.5), at(0.99), Duration::from_nanos(latencies.max()));
    let text = format!("durable 4 KiB writes, one at a time: {} of them, p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?}", latencies.len());
    match p99 {
        p99 if p99 > VERY_SLOW => bad(format!("{text}: clients will lose their sessions; use another disk, or see who else writes to it")),
        p99 if p99 > SLOW => advice(format!("{text}: every write of a client waits for one; a disk with protected cache takes some 50 us")),
        _ => good(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_something_is_named_with_its_remedy() {
        assert_eq!(judge_open_files(1024).verdict, Verdict::Advice);
        assert_eq!(judge_open_files(u64::MAX).verdict, Verdict::Good);
        assert_eq!((judge_clock("tsc").verdict, judge_clock("hpet").verdict), (Verdict::Good, Verdict::Advice));
        assert_eq!((judge_governor("performance").verdict, judge_governor("powersave").verdict), (Verdict::Good, Verdict::Advice));
        assert_eq!(judge_huge_pages("[always] madvise never").verdict, Verdict::Advice);
        assert_eq!(judge_huge_pages("always [madvise] never").verdict, Verdict::Good);
        assert_eq!((judge_backlog(128).verdict, judge_backlog(4096).verdict), (Verdict::Advice, Verdict::Good));
        assert_eq!((judge_swap(60).verdict, judge_swap(1).verdict), (Verdict::Advice, Verdict::Good));
        assert_eq!(judge_file_system("ext4", "rw,nobarrier").verdict, Verdict::Bad);
        assert_eq!(judge_file_system("tmpfs", "rw").verdict, Verdict::Advice);
    }

    #[test]
    fn the_mount_nearest_to_a_path_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /var tmpfs rw 0 0\n/dev/b /var/lib xfs rw,noatime 0 0\n";
        let kind = |path: &str| mount_of(mounts, Path::new(path)).unwrap().0;
        assert_eq!([kind("/var/lib/falconer"), kind("/var/library"), kind("/home")], ["xfs", "tmpfs", "ext4"]);
    }

    #[test]
    fn slow_disks_are_named() {
        let all = |ms: u64| {
            let mut latencies = Histogram::new(3).unwrap();
            latencies.record_n(ms * 1_000_000, 100).unwrap();
            judge_writes(&latencies).verdict
        };
        assert_eq!([all(1), all(10), all(100)], [Verdict::Good, Verdict::Advice, Verdict::Bad]);
    }

    #[test]
    fn a_write_takes_as_long_as_it_takes() {
        let dir = tempfile::tempdir().unwrap();
        let (begin, length) = (Instant::now(), Duration::from_millis(100));
        let (_, latencies) = time_writes(&dir.path().join("trial"), length).unwrap();
        let sum = latencies.mean() * latencies.len() as f64;
        // Nearly all of the time was spent writing, the preparation aside.
        assert!(sum > 50e6 && sum < begin.elapsed().as_nanos() as f64 * 1.01, "{sum} ns in {:?}", begin.elapsed());
    }

    #[test]
    fn a_trial_leaves_nothing_behind_and_a_missing_directory_is_bad() {
        let dir = tempfile::tempdir().unwrap();
        let found = disk(dir.path(), Duration::from_millis(20));
        assert!(found.iter().any(|finding| finding.text.contains("durable 4 KiB writes")), "{found:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(disk(&dir.path().join("missing"), Duration::ZERO)[0].verdict, Verdict::Bad);
    }
}
