//! The command line: what can be typed, and who does it. `serve` is handed back to `main`; the client commands run
//! here against any server that speaks the ZooKeeper protocol, so that the first minute needs nothing else installed.
//! Results go to standard output, everything else to standard error.
//! Refuses to hold what a library user would want: `client` is the session, this is its keyboard.

mod commands;
mod connection;
pub mod doctor;
mod ensemble;
mod ensemble_files;
mod print;
mod recover;

pub use doctor::{Doctor, run as doctor};
pub use ensemble::{Ensemble, run as ensemble};
pub use recover::{Recover, run as recover};

use crate::config::{Flag, Sources};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// How the program ends. Scripts and service managers rely on the numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Done, or stopped as asked.
    Clean = 0,
    /// It could not be done: no such node, no server, the port is taken.
    Failed = 1,
    /// The command line or the configuration is wrong. Trying again will not help.
    Usage = 2,
    /// What was durable is damaged. A person has to look.
    Corrupt = 3,
    /// A disk failed to read or write. The process stops at once and never retries.
    Disk = 4,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> std::process::ExitCode {
        std::process::ExitCode::from(exit as u8)
    }
}

/// A coordination server that speaks the ZooKeeper protocol. Without a command: serve.
#[derive(Parser, Debug)]
#[command(name = "falconer", version)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a server.
    Serve(Serve),
    /// Run a whole ensemble on this machine, for trying things out.
    Ensemble(Ensemble),
    /// Look at the data directory of a server that does not start.
    Recover(Recover),
    /// Look at this machine: whether a server will run well on it, and what to change.
    Doctor(Doctor),
    #[command(flatten)]
    Client(ClientCommand),
}

/// Which settings to serve with.
#[derive(Args, Debug, Default, PartialEq, Eq)]
pub struct Serve {
    /// TOML, or a zoo.cfg as it stands. Without one: standalone on 127.0.0.1:2181, data in ./falconer-data.
    pub config: Option<PathBuf>,
    /// default, throughput, latency, small, paranoid, or a TOML file.
    #[arg(long, value_name = "NAME|FILE")]
    pub profile: Option<String>,
    /// Port for clients; 0 takes any free one.
    #[arg(long, value_name = "N")]
    pub client_port: Option<u16>,
    /// Where snapshots and the log lie.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Threads that serve clients; 0 means one per core.
    #[arg(long, value_name = "N")]
    pub shards: Option<usize>,
    /// Number of this server, 0 to 254.
    #[arg(long, value_name = "N")]
    pub id: Option<u16>,
    /// Validate, print the effective settings and exit.
    #[arg(long)]
    pub check: bool,
}

impl Serve {
    /// Where the settings come from.
    pub fn sources(&self) -> Sources {
        let flags = [
            ("--client-port", "client.port", self.client_port.map(|n| n.to_string())),
            ("--data-dir", "data.dir", self.data_dir.clone()),
            ("--shards", "threads.shards", self.shards.map(|n| n.to_string())),
            ("--id", "server.id", self.id.map(|n| n.to_string())),
        ];
        let flags = flags.into_iter().filter_map(|(name, key, value)| Some(Flag { name, key, value: value? })).collect();
        Sources { profile: self.profile.clone(), file: self.config.clone(), flags }
    }
}

/// What a client can ask of a running server.
#[derive(Subcommand, Debug)]
pub enum ClientCommand {
    /// List the children of nodes.
    Ls {
        #[arg(required = true)]
        paths: Vec<String>,
        /// Show the node's own stat too.
        #[arg(short)]
        stat: bool,
        /// The whole subtree, one full path per line.
        #[arg(short = 'R')]
        recursive: bool,
        /// Ask for N names at a time and print them as they come: for millions. Only Falconer does this.
        #[arg(long, value_name = "N", conflicts_with = "recursive", value_parser = clap::value_parser!(i32).range(1..))]
        page: Option<i32>,
        #[command(flatten)]
        to: To,
    },
    /// Print the data of nodes.
    Get {
        #[arg(required = true)]
        paths: Vec<String>,
        /// Show the stat too.
        #[arg(short)]
        stat: bool,
        #[command(flatten)]
        to: To,
    },
    /// Create a node and print its path.
    Create {
        path: String,
        /// The node has no data if this is left out.
        data: Option<String>,
        /// Read the data from standard input.
        #[arg(long, conflicts_with = "data")]
        stdin: bool,
        /// Append a ten-digit sequence number to the name.
        #[arg(short)]
        sequential: bool,
        /// A container: removed some time after its last child.
        #[arg(short, conflicts_with_all = ["sequential", "ttl"])]
        container: bool,
        /// Removed when it has no children and was not set for so long.
        #[arg(long, value_name = "MS")]
        ttl: Option<i64>,
        #[command(flatten)]
        to: To,
    },
    /// Set the data of a node.
    Set {
        path: String,
        #[arg(required_unless_present = "stdin")]
        data: Option<String>,
        /// Read the data from standard input.
        #[arg(long, conflicts_with = "data")]
        stdin: bool,
        /// Only if the node has this version.
        #[arg(long, value_name = "N", default_value_t = -1, hide_default_value = true, allow_negative_numbers = true)]
        version: i32,
        /// Show the stat that comes out.
        #[arg(short)]
        stat: bool,
        #[command(flatten)]
        to: To,
    },
    /// Delete nodes.
    Delete {
        #[arg(required = true)]
        paths: Vec<String>,
        /// Only if the node has this version.
        #[arg(long, value_name = "N", default_value_t = -1, hide_default_value = true, allow_negative_numbers = true)]
        version: i32,
        /// With everything below; not atomic.
        #[arg(short, conflicts_with = "version")]
        recursive: bool,
        #[command(flatten)]
        to: To,
    },
    /// Print the stat of nodes.
    Stat {
        #[arg(required = true)]
        paths: Vec<String>,
        #[command(flatten)]
        to: To,
    },
}

/// Which server, and as whom.
#[derive(Args, Debug)]
pub struct To {
    /// The first of these that answers; a path at the end is put before every path.
    #[arg(long, value_name = "HOST:PORT,...", default_value = "127.0.0.1:2181")]
    pub server: String,
    /// Give up after so many seconds without an answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub timeout: u32,
    /// Authenticate first, as in digest:user:password. May be given several times.
    #[arg(long, value_name = "SCHEME:CREDENTIALS")]
    pub auth: Vec<String>,
}

/// Runs a client command to its end.
pub fn run(command: &ClientCommand) -> Exit {
    let stdout = std::io::stdout();
    let mut out = std::io::BufWriter::new(stdout.lock());
    match commands::run(command, &mut std::io::stdin().lock(), &mut out) {
        Ok(()) => Exit::Clean,
        Err(error) if error.is_closed_pipe() => Exit::Clean,
        Err(error) => {
            eprintln!("falconer: {error}");
            error.exit()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' ').filter(|word| !word.is_empty()))
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn alone_it_is_serve() {
        assert!(parse("falconer").unwrap().command.is_none());
        let Some(Command::Serve(serve)) = parse("falconer serve").unwrap().command else { panic!("serve") };
        assert_eq!(serve, Serve::default());
    }

    #[test]
    fn flags_of_serve_become_settings() {
        let line = "falconer serve zoo.cfg --profile small --client-port 2182 --data-dir /d --shards 3 --id 7 --check";
        let Some(Command::Serve(serve)) = parse(line).unwrap().command else { panic!("serve") };
        assert!(serve.check);
        let sources = serve.sources();
        assert_eq!((sources.file, sources.profile), (Some("zoo.cfg".into()), Some("small".into())));
        let flags: Vec<_> = sources.flags.iter().map(|f| (f.name, f.key, f.value.as_str())).collect();
        let want = [
            ("--client-port", "client.port", "2182"),
            ("--data-dir", "data.dir", "/d"),
            ("--shards", "threads.shards", "3"),
            ("--id", "server.id", "7"),
        ];
        assert_eq!(flags, want);
    }

    #[test]
    fn client_commands() {
        for good in [
            "falconer ls /",
            "falconer ls -s -R / /a --server a:1,b:2/chroot",
            "falconer get -s /a --auth digest:u:p",
            "falconer create /a",
            "falconer create /a x -s --ttl 1000",
            "falconer create /a --stdin -c",
            "falconer set /a x --version 3 -s",
            "falconer delete /a /b --version -1",
            "falconer delete -r /a",
            "falconer stat /a --timeout 1",
        ] {
            assert!(parse(good).is_ok(), "{good}: {}", parse(good).unwrap_err());
        }
        for bad in [
            "falconer ls",
            "falconer frob",
            "falconer set /a",
            "falconer set /a x --stdin",
            "falconer create /a -c -s",
            "falconer delete -r /a --version 3",
            "falconer serve --client-port 70000",
            "falconer ls / --timeout 0",
        ] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), Exit::Usage as i32, "{bad}");
        }
    }
}
