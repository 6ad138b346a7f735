//! The command line. Refuses combinations that cannot be run, with one line that says why.

use crate::actions::Action;
use crate::compare::{Side, parse_side};
use crate::content::Sizes;
use crate::gates::Gates;
use crate::pace::{Arrivals, Schedule, Step, duration};
use crate::spec::{Doing, Spec};
use clap::{Args, Parser, Subcommand};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// Load for servers that speak the ZooKeeper client protocol. Every reply is checked; a wrong one makes the exit status 1.
#[derive(Parser, Debug)]
#[command(name = "falconer-loadgen", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: Run,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Show the workloads, or the TOML of one.
    List { workload: Option<String> },
    /// Load several services in turn (A B A B) and print ratios with their spread.
    #[command(mut_arg("servers", |arg| arg.hide(true)), mut_arg("server_pids", |arg| arg.hide(true)))]
    Compare(Compare),
    /// Create many nodes in a tree of two levels and leave them there.
    Fill(Fill),
    /// Delete everything below the root node.
    Clean {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        output: Output,
    },
}

/// One workload on one service.
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// A word from `falconer-loadgen list`, or a TOML file. Without it: mixed.
    pub workload: Option<String>,
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub load: Load,
    #[command(flatten)]
    pub output: Output,
}

/// The same load on several services.
#[derive(Args, Clone, Debug)]
pub struct Compare {
    /// NAME=HOST:PORT, several servers with commas, and @PID to report CPU and memory: zk=127.0.0.1:2182@4711.
    #[arg(required = true, num_args = 2.., value_parser = side)]
    pub sides: Vec<Side>,
    /// A word from `falconer-loadgen list`, or a TOML file.
    #[arg(long, default_value = "mixed")]
    pub workload: String,
    /// How often each service is loaded.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Write a page with the latency spectrum of every service and the throughput of every round to a file.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub load: Load,
}

/// Which service.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// HOST:PORT, or several with commas; connections are spread over them.
    #[arg(long = "server", default_value = "127.0.0.1:2181", value_delimiter = ',', value_parser = resolve)]
    pub servers: Vec<SocketAddr>,
    /// A server process whose CPU time and memory to report; repeat for several.
    #[arg(long = "server-pid", value_name = "PID")]
    pub server_pids: Vec<u32>,
    /// HOST:PORT of a server's /metrics page, whose numbers to report beside those of mntr; repeat for several.
    #[arg(long, value_name = "HOST:PORT", value_parser = resolve)]
    pub metrics: Vec<SocketAddr>,
    /// A directory on the server's disk: time durable writes there for two seconds before the load, and report them.
    #[arg(long, value_name = "DIR")]
    pub disk: Option<PathBuf>,
    /// The node below which everything happens.
    #[arg(long, default_value = "/falconer-loadgen", value_parser = root)]
    pub root: String,
    /// Delete what is already below the root instead of refusing to start.
    #[arg(long)]
    pub force: bool,
    /// Session timeout to ask for, in ms.
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(i32).range(1..))]
    pub session_timeout_ms: i32,
    /// A reply that takes longer counts as lost, in ms.
    #[arg(long, default_value_t = 30_000)]
    pub reply_timeout_ms: u64,
    /// No phase may take longer.
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = duration)]
    pub limit: Duration,
}

/// How much load, and how long. What is not given comes from the workload.
#[derive(Args, Clone, Debug)]
pub struct Load {
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: Option<u32>,
    /// Operations that each connection has under way at most.
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub outstanding: Option<u32>,
    /// Bytes of data per node.
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(..=8 << 20))]
    pub size: Option<u32>,
    /// Nodes that exist before the run.
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub keys: Option<u32>,
    /// Nodes of each connection's own that exist before the run.
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub population: Option<u32>,
    /// Share of reads, in workloads that only read and set.
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=100))]
    pub read_percent: Option<u32>,
    /// Threads of the load generator.
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
    /// How long to measure.
    #[arg(long, short, default_value = "5", value_name = "TIME", value_parser = duration)]
    pub duration: Duration,
    /// Measure this many operations instead of a time.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub ops: Option<u64>,
    /// Load before measuring.
    #[arg(long, short, default_value = "2", value_name = "TIME", value_parser = duration)]
    pub warmup: Duration,
    /// Open loop: operations per second (50k), or steps (10k:5s,50k:1s) that repeat.
    #[arg(long, value_parser = Schedule::parse, value_name = "RATE")]
    pub rate: Option<std::vec::Vec<Step>>,
    /// How the times between operations are spread in an open loop.
    #[arg(long, value_enum, default_value_t)]
    pub arrivals: Arrivals,
    /// Open loop: burn a core rather than be some 50 us late.
    #[arg(long)]
    pub spin: bool,
    /// Take up sessions again whose connection is lost, instead of ending the run.
    #[arg(long)]
    pub reconnect: bool,
    /// Start a shell command at a time of the measured phase, and report how long recovery took; implies --reconnect.
    #[arg(long, num_args = 2, value_names = ["TIME", "COMMAND"])]
    pub at: Vec<String>,
    /// Find the highest rate at which conditions such as 'p99<5ms' hold; the search begins at --rate, or at 1000.
    #[arg(long, value_name = "CONDITIONS", conflicts_with_all = ["ops", "repeat"])]
    pub find_max: Option<Gates>,
    /// Measure this often; the report is of the run with the median throughput, and tells the spread.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeat: u32,
    /// The same seed asks for the same keys.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Leave the nodes there.
    #[arg(long)]
    pub keep: bool,
    /// Do not look at the end whether every acknowledged write is there.
    #[arg(long)]
    pub skip_final_check: bool,
}

/// How to report.
#[derive(Args, Clone, Debug)]
pub struct Output {
    /// Print one line.
    #[arg(long, short)]
    pub quiet: bool,
    /// Print one line of JSON.
    #[arg(long)]
    pub json: bool,
    /// Write the JSON to a file, for --baseline.
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Write a line per second to a file.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write a table in Markdown to a file.
    #[arg(long, value_name = "FILE")]
    pub md: Option<PathBuf>,
    /// Write the latency distribution for HdrHistogram's plotters to a file.
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// Write a page with charts to a file.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Conditions, such as 'p99<5ms,errors=0,worst>0.8*mean': exit status 3 if one does not hold.
    #[arg(long = "assert", value_name = "CONDITIONS")]
    pub gates: Option<Gates>,
    /// An earlier report (--save): exit status 3 if this one is worse.
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// How much worse than the baseline is still fine, in percent.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=1000))]
    pub tolerance: u32,
}

#[derive(Args, Clone, Debug)]
pub struct Fill {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub output: Output,
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

impl Load {
    /// The workload with what the flags change in it.
    pub fn apply(&self, spec: &mut Spec) -> Result<(), String> {
        let set = |field: &mut u32, flag: Option<u32>| *field = flag.unwrap_or(*field);
        set(&mut spec.connections, self.connections);
        set(&mut spec.outstanding, self.outstanding);
        set(&mut spec.keys, self.keys);
        set(&mut spec.population, self.population);
        if let Some(size) = self.size {
            spec.size = Sizes::Fixed(size);
        }
        if let Some(percent) = self.read_percent {
            set_read_percent(spec, percent)?;
        }
        spec.validate()?;
        match self.threads <= spec.connections {
            true => spec.validate_watches(self.threads),
            false => Err(format!("{} threads for {} connections: a thread needs one at least", self.threads, spec.connections)),
        }
    }

    /// The open loop, if there is one.
    pub fn schedule(&self) -> Option<Schedule> {
        self.rate.clone().map(|steps| Schedule { steps, arrivals: self.arrivals })
    }

    /// The commands on the time line.
    pub fn actions(&self) -> Result<Vec<Action>, String> {
        let action = |pair: &[String]| Ok(Action { at: duration(&pair[0])?, command: pair[1].clone() });
        self.at.chunks(2).map(action).collect()
    }
}

fn set_read_percent(spec: &mut Spec, percent: u32) -> Result<(), String> {
    let doing = |wanted| spec.operation.iter().position(|operation| operation.doing == wanted);
    match (doing(Doing::Get), doing(Doing::Set), spec.operation.len()) {
        (Some(get), Some(set), 2) => {
            (spec.operation[get].weight, spec.operation[set].weight) = (percent, 100 - percent);
            Ok(())
        }
        _ => Err("--read-percent: only for workloads of `get` and `set`".into()),
    }
}

fn resolve(text: &str) -> Result<SocketAddr, String> {
    let mut addresses = text.to_socket_addrs().map_err(|error| format!("{error} (wanted: HOST:PORT)"))?;
    addresses.next().ok_or_else(|| "the name has no address".into())
}

fn side(text: &str) -> Result<Side, String> {
    parse_side(text, resolve)
}

fn root(text: &str) -> Result<String, String> {
    let right = text.len() > 1 && text.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
    match right && text.starts_with('/') && !text.starts_with("/zookeeper") {
        true => Ok(text.into()),
        false => Err("a path such as /falconer-loadgen, not / and not below /zookeeper".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<(Run, Spec), String> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let arguments = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        let (_, mut spec) = Spec::find(arguments.run.workload.as_deref().unwrap_or("mixed"))?;
        arguments.run.load.apply(&mut spec)?;
        Ok((arguments.run, spec))
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn no_workload_is_the_canonical_one_with_its_options() {
        let (run, spec) = parse("--connections 7 --warmup 500ms --rate 10k --read-percent 90").unwrap();
        assert_eq!((spec.connections, spec.keys, run.load.warmup), (7, 10_000, Duration::from_millis(500)));
        assert_eq!((spec.operation[0].weight, spec.operation[1].weight), (90, 10));
        assert_eq!(run.load.schedule().unwrap().steps, [Step { rate: 10_000.0, length: None }]);
    }

    #[test]
    fn commands_on_the_time_line_come_in_pairs() {
        let arguments = Arguments::try_parse_from(["x", "read", "--at", "2s", "kill -9 7", "--at", "5s", "true"]).unwrap();
        let actions = arguments.run.load.actions().unwrap();
        assert_eq!(actions.iter().map(|action| action.at.as_secs()).collect::<Vec<_>>(), [2, 5]);
        assert_eq!(actions[0].command, "kill -9 7");
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        for line in [
            "read --server nowhere",
            "write --connections 0",
            "write --duration -1",
            "write -c 20 -k 10",
            "idle -c 2 --threads 3",
            "nonsense",
            "create --read-percent 5",
            "read --root /",
            "read --root /a//b",
            "read --root /zookeeper/x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse("write -c 20 -k 20 --server 127.0.0.1:1,127.0.0.1:2").is_ok());
    }
}
