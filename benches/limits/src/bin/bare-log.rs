//! `bare-log`: makes blocks durable one after the other, the way the server writes its log (a file written beforehand,
//! O_DIRECT and O_DSYNC, io_uring), and nothing else. No server that waits for its disk is faster. Prints one line of
//! JSON. Refuses to leave its file behind.

use clap::Parser;
use falconer::log::Frame;
use falconer::runtime::Bell;
use falconer::runtime::ring::{Ring, Target, WRITES_MAX};
use falconer::wire::aligned::AlignedBuf;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// As large as a segment of the log.
const FILE_BYTES: u64 = 64 << 20;
const EINVAL: i32 = 22;

#[derive(Parser)]
#[command(about, version)]
struct Options {
    /// A directory on the disk to try.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Bytes of one append: whole blocks of 4 KiB.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(4096..=4 << 20))]
    bytes: u32,
    /// Appends under way at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=WRITES_MAX as i64))]
    in_flight: u8,
}

/// What the disk gives.
#[derive(Serialize)]
struct Limit {
    bytes: u32,
    in_flight: u8,
    direct: bool,
    appends_per_s: f64,
    cpu_us_per_append: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
}

/// A new file full of zeros that are on the medium, and whether its writes pass by the page cache.
fn make(path: &Path) -> io::Result<(File, bool)> {
    let zeros = AlignedBuf::with_capacity(1 << 20);
    let fresh = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    for offset in (0..FILE_BYTES).step_by(zeros.len()) {
        fresh.write_all_at(&zeros, offset)?;
    }
    fresh.sync_all()?;
    let open = |flags| OpenOptions::new().write(true).custom_flags(flags).open(path);
    match open(libc::O_DSYNC | libc::O_DIRECT) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.raw_os_error() == Some(EINVAL) => Ok((open(libc::O_DSYNC)?, false)),
        Err(error) => Err(error),
    }
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn measure(options: &Options, file: &File, direct: bool) -> io::Result<Limit> {
    let mut ring = Ring::new(Arc::new(Bell::new()?), 1, 4096)?;
    let block = Arc::new(AlignedBuf::with_capacity(options.bytes as usize));
    let bytes = block.len() as u64;
    let mut latencies = Histogram::<u64>::new_with_bounds(1000, 60_000_000_000, 3).expect("constant bounds");
    let (mut started, mut offset, mut next, mut events) = ([None; WRITES_MAX], 0, 0, Vec::new());
    let (begin, cpu_before) = (Instant::now(), cpu_time());
    while begin.elapsed().as_secs_f64() < options.seconds {
        while let Some(slot) = started[..usize::from(options.in_flight)].iter().position(Option::is_none) {
            started[slot] = Some((next, Instant::now()));
            ring.write(next, Target { file: file.as_raw_fd(), offset, dsync: false }, Frame::Block(block.clone()));
            (next, offset) = (next + 1, (offset + bytes) % (FILE_BYTES - FILE_BYTES % bytes));
        }
        ring.enter(Some(Duration::from_secs(1)))?;
        ring.reap(&mut events)?;
        events.clear();
        while let Some(written) = ring.next_written() {
            if written.errno != 0 {
                return Err(io::Error::from_raw_os_error(written.errno));
            }
            let slot = started.iter().position(|entry| entry.is_some_and(|(op, _)| op == written.op)).expect("it was begun");
            let (_, since) = started[slot].take().expect("just found");
            latencies.saturating_record(since.elapsed().as_nanos() as u64);
        }
    }
    let (elapsed, cpu) = (begin.elapsed(), cpu_time() - cpu_before);
    let us = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(Limit {
        bytes: options.bytes,
        in_flight: options.in_flight,
        direct,
        appends_per_s: latencies.len() as f64 / elapsed.as_secs_f64(),
        cpu_us_per_append: cpu.as_secs_f64() * 1e6 / latencies.len().max(1) as f64,
        p50_us: us(0.5),
        p99_us: us(0.99),
        p999_us: us(0.999),
        max_us: latencies.max() as f64 / 1000.0,
    })
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    let path = options.dir.join(format!("bare-log-{}.tmp", std::process::id()));
    let limit = make(&path).and_then(|(file, direct)| measure(&options, &file, direct));
    let removed = fs::remove_file(&path);
    println!("{}", serde_json::to_string(&limit?).expect("numbers only"));
    removed
}
