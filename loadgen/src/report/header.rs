//! What is needed to repeat a run: command line, versions, machine, and what the servers say of themselves. Refuses to
//! fail: what cannot be found out is left empty.

use crate::args::Target;
use crate::clock::now_ns;
use crate::control::Control;
use crate::figures::four_letters;
use falconer::cli::doctor::durable_writes;
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

const ANSWER_TIMEOUT_MS: u64 = 2000;
/// How long durable writes are timed.
const DISK_PROBE: Duration = Duration::from_secs(2);

const ROUND_TRIPS: usize = 21;

/// Durable writes of 4 KiB, one after the other, before the load.
#[derive(Clone, Serialize, Deserialize, Debug, Default)]
#[serde(default)]
pub struct DiskProbe {
    pub directory: String,
    /// Past the page cache.
    pub direct: bool,
    pub writes_per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

impl DiskProbe {
    fn of(dir: &Path) -> Result<DiskProbe, String> {
        let (direct, times) = durable_writes(dir, DISK_PROBE).map_err(|error| format!("--disk {}: {error}", dir.display()))?;
        let us = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
        Ok(DiskProbe {
            directory: dir.display().to_string(),
            direct,
            writes_per_s: times.len() as f64 / DISK_PROBE.as_secs_f64(),
            p50_us: us(0.5),
            p99_us: us(0.99),
            max_us: times.max() as f64 / 1000.0,
        })
    }
}

/// The circumstances of a run.
#[derive(Clone, Serialize, Deserialize, Debug, Default)]
#[serde(default)]
pub struct Header {
    pub command: String,
    pub generator: String,
    pub seed: u64,
    pub servers: Vec<String>,
    /// The first line of `srvr`, and the mode, of each server.
    pub server_versions: Vec<String>,
    /// What `conf` answers, of the first server.
    pub server_configuration: Vec<String>,
    /// Median of a few reads of a small node by a lone client of the first server, before the load.
    pub round_trip_us: Option<f64>,
    /// Of the directory that --disk names.
    pub disk: Option<DiskProbe>,
    pub host: String,
    pub kernel: String,
    pub cpu: String,
    pub cores: usize,
    pub memory_mb: u64,
    pub load_average: String,
}

impl Header {
    /// Fails only if a disk was named that cannot be written to.
    pub fn collect(target: &Target, seed: u64) -> Result<Header, String> {
        let answers: Vec<String> = target.servers.iter().map(|&server| four_letters(server, "srvr").unwrap_or_default()).collect();
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let line = |text: &str, name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name));
            found.map_or(String::new(), |rest| rest.trim_start_matches([' ', '\t', ':']).to_string())
        };
        let memory = line(&read("/proc/meminfo"), "MemTotal");
        Ok(Header {
            command: std::env::args().collect::<Vec<_>>().join(" "),
            generator: format!("falconer-loadgen {}", env!("CARGO_PKG_VERSION")),
            seed,
            servers: target.servers.iter().map(SocketAddr::to_string).collect(),
            server_versions: answers.iter().map(|answer| version_and_mode(answer)).collect(),
            // A server that does not answer one word is not waited for again.
            server_configuration: match answers[0].is_empty() {
                true => Vec::new(),
                false => four_letters(target.servers[0], "conf").unwrap_or_default().lines().map(str::to_string).collect(),
            },
            round_trip_us: round_trip_us(target),
            disk: target.disk.as_deref().map(DiskProbe::of).transpose()?,
            host: read("/proc/sys/kernel/hostname").trim().to_string(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
            cpu: line(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mb: memory.split(' ').next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1024,
            load_average: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
        })
    }

    /// The servers that have answered a four-letter word.
    pub fn talkative(&self, target: &Target) -> Vec<SocketAddr> {
        let answered = |(server, version): (&SocketAddr, &String)| (!version.is_empty()).then_some(*server);
        target.servers.iter().zip(&self.server_versions).filter_map(answered).collect()
    }
}

fn round_trip_us(target: &Target) -> Option<f64> {
    let mut control = Control::connect(target.servers[0], ANSWER_TIMEOUT_MS).ok()?;
    let mut times_ns = Vec::new();
    for _ in 0..ROUND_TRIPS {
        let begin_ns = now_ns();
        control.exists("/zookeeper").ok()?;
        times_ns.push(now_ns() - begin_ns);
    }
    control.close().ok()?;
    times_ns.sort_unstable();
    Some(times_ns[ROUND_TRIPS / 2] as f64 / 1000.0)
}

/// "3.9.3-… standalone", out of the answer to `srvr`.
fn version_and_mode(answer: &str) -> String {
    let after = |name: &str| answer.lines().find_map(|line| Some(line.split_once(name)?.1.trim().to_string()));
    let version = after("version:").map(|text| text.split(',').next().unwrap_or_default().to_string());
    [version, after("Mode:")].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_and_mode_are_found() {
        let answer = "Zookeeper version: 3.9.3-c26634f34490bb0ea7a09cc51e05ede3b4e320ee, built on 2024\nLatency: 0\nMode: standalone\n";
        assert_eq!(version_and_mode(answer), "3.9.3-c26634f34490bb0ea7a09cc51e05ede3b4e320ee standalone");
        assert_eq!(version_and_mode(""), "");
    }
}
