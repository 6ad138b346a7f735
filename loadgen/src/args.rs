//! The command line. Refuses combinations that cannot be run, with one line that says why.

use clap::{Args, Parser, Subcommand};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// Load for servers that speak the ZooKeeper client protocol. Every reply is checked; a wrong one makes the exit status 1.
#[derive(Parser, Debug)]
#[command(name = "falconer-loadgen", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub scenario: Option<Scenario>,
    /// Without a scenario: `mixed`.
    #[command(flatten)]
    pub canonical: Load,
}

#[derive(Subcommand, Debug)]
pub enum Scenario {
    /// Read existing nodes.
    Get(Load),
    /// Write existing nodes.
    Set(Load),
    /// Create nodes, each connection in a directory of its own.
    Create(Load),
    /// Read and write existing nodes (70:30).
    Mixed(Load),
    /// Create many nodes in a tree of two levels and leave them there.
    Fill(Fill),
    /// Open many sessions and hold them.
    Idle(Idle),
    /// Delete everything below /falconer-loadgen.
    Clean(Target),
}

/// Which server, and how to report.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// HOST:PORT.
    #[arg(long, default_value = "127.0.0.1:2181", value_parser = resolve)]
    pub server: SocketAddr,
    /// A server process whose CPU time and memory to report; repeat for several.
    #[arg(long = "server-pid", value_name = "PID")]
    pub server_pids: Vec<u32>,
    /// Print one line of JSON.
    #[arg(long)]
    pub json: bool,
    /// Delete what is already below /falconer-loadgen instead of refusing to start.
    #[arg(long)]
    pub force: bool,
    /// Session timeout to ask for, in ms.
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(i32).range(1..))]
    pub session_timeout_ms: i32,
    /// A reply that takes longer counts as lost, in ms.
    #[arg(long, default_value_t = 30_000)]
    pub reply_timeout_ms: u64,
    /// No phase may take longer, in seconds.
    #[arg(long = "limit", default_value = "600", value_name = "SECONDS", value_parser = seconds)]
    pub limit: Duration,
}

/// A closed loop: connections times outstanding requests.
#[derive(Args, Clone, Debug)]
pub struct Load {
    #[command(flatten)]
    pub target: Target,
    #[arg(long, short, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub connections: u32,
    /// Requests without a reply that each connection keeps.
    #[arg(long, short, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub outstanding: u32,
    /// Bytes of data per node.
    #[arg(long, short, default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=8 << 20))]
    pub size: u32,
    /// Existing nodes to read and write.
    #[arg(long, short, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub keys: u32,
    /// Threads of the load generator.
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
    /// Seconds to measure.
    #[arg(long, short, default_value = "5", value_name = "SECONDS", value_parser = seconds)]
    pub duration: Duration,
    /// Measure this many operations instead of a time.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub ops: Option<u64>,
    /// Seconds of load before measuring.
    #[arg(long, short, default_value = "2", value_name = "SECONDS", value_parser = seconds)]
    pub warmup: Duration,
    /// Share of reads in `mixed`.
    #[arg(long, default_value_t = 70, value_parser = clap::value_parser!(u32).range(..=100))]
    pub read_percent: u32,
    /// The same seed asks for the same keys.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Leave the nodes there.
    #[arg(long)]
    pub keep: bool,
}

#[derive(Args, Clone, Debug)]
pub struct Fill {
    #[command(flatten)]
    pub target: Target,
    /// Nodes to create.
    #[arg(long, short, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub nodes: u32,
    /// Bytes of data per node.
    #[arg(long, short, default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=8 << 20))]
    pub size: u32,
    #[arg(long, short, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    #[arg(long, short, default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub outstanding: u32,
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
}

#[derive(Args, Clone, Debug)]
pub struct Idle {
    #[command(flatten)]
    pub target: Target,
    /// Sessions to open.
    #[arg(long, short = 'n', default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub sessions: u32,
    /// Seconds to hold them.
    #[arg(long, short, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub duration: Duration,
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
}

impl Scenario {
    pub fn target(&self) -> &Target {
        match self {
            Scenario::Get(load) | Scenario::Set(load) | Scenario::Create(load) | Scenario::Mixed(load) => &load.target,
            Scenario::Fill(fill) => &fill.target,
            Scenario::Idle(idle) => &idle.target,
            Scenario::Clean(target) => target,
        }
    }

    /// What the scenario cannot be run with.
    pub fn validate(&self) -> Result<(), String> {
        let (threads, connections) = match self {
            Scenario::Get(load) | Scenario::Create(load) => (load.threads, load.connections),
            Scenario::Set(load) | Scenario::Mixed(load) => {
                if load.keys < load.connections {
                    return Err(format!(
                        "--keys {} for {} connections: every connection writes keys of its own",
                        load.keys, load.connections
                    ));
                }
                (load.threads, load.connections)
            }
            Scenario::Fill(fill) => (fill.threads, fill.connections),
            Scenario::Idle(idle) => (idle.threads, idle.sessions),
            Scenario::Clean(_) => return Ok(()),
        };
        match threads <= connections {
            true => Ok(()),
            false => Err(format!("{threads} threads for {connections} connections: a thread needs one at least")),
        }
    }
}

fn resolve(text: &str) -> Result<SocketAddr, String> {
    let mut addresses = text.to_socket_addrs().map_err(|error| format!("{error} (wanted: HOST:PORT)"))?;
    addresses.next().ok_or_else(|| "the name has no address".into())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn no_scenario_is_the_canonical_one_with_its_options() {
        let arguments = Arguments::try_parse_from(["falconer-loadgen", "--connections", "7", "--warmup", "0.5"]).unwrap();
        assert!(arguments.scenario.is_none());
        assert_eq!(arguments.canonical.connections, 7);
        assert_eq!(arguments.canonical.warmup, Duration::from_millis(500));
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' ')).map(|arguments| arguments.scenario.unwrap().validate());
        assert!(parse("x get --server nowhere").is_err());
        assert!(parse("x set --connections 0").is_err());
        assert!(parse("x set --duration -1").is_err());
        assert!(parse("x set --connections 20 --keys 10").unwrap().is_err());
        assert!(parse("x idle -n 2 --threads 3").unwrap().is_err());
        assert_eq!(parse("x set -c 20 -k 20").unwrap(), Ok(()));
    }
}
