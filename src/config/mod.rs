//! Settings: defaults < profile < config file < flags -> one validated [`Config`].
//! A config file is TOML, or a ZooKeeper `zoo.cfg` as it stands; both go through the one table in `settings`, so an
//! unknown key, a bad value or an unusable file is one line that names file, line, key and what is allowed.
//! Refuses to guess: what it does not know is an error, what it knows but cannot do yet is a warning, and what would
//! be dangerous to leave out (a member of an ensemble started alone, TLS asked for and plaintext served) is an error.

mod ensemble;
mod error;
mod known;
mod load;
mod membership;
mod secret;
mod settings;
mod toml_file;
mod toml_servers;
mod values;
mod zoo;

pub use ensemble::{EnsembleConfig, ServerConfig};
pub use error::{ConfigError, Place};
pub use load::{Flag, Loaded, Sources, load};
pub use secret::Secret;
pub use settings::{SETTINGS, Setting, settings_table};

use crate::admin::{self, fourletter::Whitelist};
use crate::limits;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Every setting, validated. Sections are the TOML sections, fields the TOML keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    pub server: Server,
    pub threads: Threads,
    pub client: Client,
    pub session: Session,
    pub limits: Limits,
    pub data: Data,
    pub replication: Replication,
    pub features: Features,
    pub container: Container,
    pub digest_auth: DigestAuth,
    pub admin: Admin,
    pub log: Log,
    /// The servers of which this is one; `None`: it runs alone.
    pub ensemble: Option<EnsembleConfig>,
}

/// Who this server is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// 0 to 254; ZooKeeper's myid. 0 is a standalone server that was never given one.
    pub id: u16,
}

/// Which threads run, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Threads {
    /// Client cores, each with a copy of the tree; `None`: one per core this process may use.
    pub shards: Option<usize>,
    pub pinning: Pinning,
    pub pipeline: Pipeline,
}

/// Which core a thread stays on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pinning {
    /// Each thread on a core of its own, as long as there are enough.
    Auto,
    /// The kernel moves threads as it likes.
    None,
    /// The cores to use, in this order. Never empty, no core twice, and at least one per thread.
    Cpus(Vec<usize>),
}

/// Where writes are prepared and logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pipeline {
    /// On the first shard's thread.
    Shared,
    /// On a thread of its own, which serves no clients.
    Dedicated,
}

/// The listener for clients and what it allows them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    pub address: IpAddr,
    pub port: u16,
    /// Connections the kernel holds before they are accepted.
    pub backlog: u32,
    /// Connections of this server in all; 0: no limit.
    pub connections_max: u32,
    /// Connections from one address; 0: no limit.
    pub connections_per_address_max: u32,
    /// Whether the limit per address holds for loopback addresses too.
    pub limit_loopback: bool,
    /// The largest request, in bytes.
    pub frame_bytes_max: usize,
    /// Requests in progress on this server beyond which connections that have some are not read; 0: no limit.
    pub requests_outstanding_max: u32,
}

/// Session timing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    pub tick_time_ms: u32,
    /// The shortest timeout a client can negotiate.
    pub timeout_ms_min: u32,
    /// The longest timeout a client can negotiate; at least `timeout_ms_min`.
    pub timeout_ms_max: u32,
}

/// What clients can make the server hold. How many connections, and how large and how many requests: see [`Client`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Of the whole server; 0: no limit.
    pub sessions_max: u64,
    pub handshake_timeout_ms: u64,
    pub set_watches_bytes_max: u64,
    /// Of all connections.
    pub unparsed_bytes_max: u64,
    /// Of all connections.
    pub queued_bytes_max: u64,
    pub requests_per_connection_max: u64,
    /// This and the next three: of one connection.
    pub held_bytes_max: u64,
    pub output_bytes_max: u64,
    pub event_bytes_max: u64,
    pub identities_bytes_max: u64,
    pub acl_entries_max: u64,
    pub acl_bytes_max: u64,
    pub watches_per_connection_max: u64,
    pub watches_per_shard_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            sessions_max: limits::SESSIONS_MAX as u64,
            handshake_timeout_ms: limits::HANDSHAKE_TIMEOUT_MS,
            set_watches_bytes_max: limits::SET_WATCHES_BYTES_MAX as u64,
            unparsed_bytes_max: limits::UNPARSED_BYTES_MAX as u64,
            queued_bytes_max: limits::QUEUED_BYTES_MAX as u64,
            requests_per_connection_max: limits::PENDING_REQUESTS_MAX as u64,
            held_bytes_max: limits::HELD_BYTES_MAX as u64,
            output_bytes_max: limits::OUTPUT_BYTES_MAX as u64,
            event_bytes_max: limits::EVENT_BYTES_MAX as u64,
            identities_bytes_max: limits::IDENTITIES_BYTES_MAX as u64,
            acl_entries_max: limits::ACL_ENTRIES_MAX as u64,
            acl_bytes_max: limits::ACL_BYTES_MAX as u64,
            watches_per_connection_max: limits::WATCHES_PER_CONNECTION_MAX as u64,
            watches_per_shard_max: limits::WATCHES_PER_SHARD_MAX as u64,
        }
    }
}

/// Where data lies and when it is compacted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Data {
    /// Snapshots, and the log unless `log_dir` says otherwise.
    pub dir: PathBuf,
    /// The transaction log; the same as `dir` by default.
    pub log_dir: PathBuf,
    /// Transactions after which a snapshot is due.
    pub snapshot_txns: u32,
    /// Log since the last snapshot after which the next one is due, in KiB; 0: no such limit.
    pub snapshot_log_kb: u64,
    /// Snapshots kept, at least 3; older ones and the log behind them are removed.
    pub snapshots_retained: u32,
}

/// How the servers of an ensemble keep in touch. Without effect on a server alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replication {
    /// Silence after which a leader counts as gone.
    pub election_timeout_ms: u64,
    /// How often a leader is heard at least; at most a third of `election_timeout_ms`.
    pub heartbeat_ms: u64,
    /// A leader whose log write takes longer gives up.
    pub disk_stall_ms: u64,
    /// Without a leader for longer than this client connections are closed; at least twice `election_timeout_ms`.
    pub leaderless_ms: u64,
    /// A server that catches up with the leader and gets no further for so long starts over.
    pub init_limit_ticks: u32,
    /// So does one that has caught up and confirms nothing of what the leader sends.
    pub sync_limit_ticks: u32,
    /// Listen for other servers on all addresses, not only on the one that the list gives this server.
    pub listen_on_all_addresses: bool,
    /// What is in it: see [`EnsembleConfig::secret`].
    pub peer_secret_file: Option<PathBuf>,
    /// Every read waits until the server knows that it has seen all writes that were acknowledged before.
    pub linearizable_reads: bool,
}

/// Switches for what clients can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Features {
    /// TTL nodes.
    pub extended_types: bool,
    /// Hard quotas refuse writes.
    pub enforce_quota: bool,
    /// No permission is ever checked.
    pub skip_acl: bool,
    /// How reconfig is refused: as not implemented instead of as disabled.
    pub reconfig: bool,
}

/// When empty containers and expired TTL nodes are removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Container {
    pub check_interval_ms: u64,
    pub deletions_per_minute_max: u32,
    /// A container that never had a child is removed when it is older than this; 0: never.
    pub never_used_ms: u64,
}

/// The `digest` authentication scheme.
#[derive(Clone, PartialEq, Eq)]
pub struct DigestAuth {
    pub enabled: bool,
    /// `user:base64(SHA1(user:password))`: whoever authenticates so passes every permission check.
    pub super_digest: Option<String>,
}

impl std::fmt::Debug for DigestAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let super_digest = self.super_digest.as_ref().map(|_| "(set)");
        f.debug_struct("DigestAuth").field("enabled", &self.enabled).field("super_digest", &super_digest).finish()
    }
}

/// What operators may ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admin {
    pub four_letter_words: Whitelist,
}

/// What is logged, to standard error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// off, error, warn, info, debug or trace.
    pub level: String,
}

impl Config {
    /// Where clients connect.
    pub fn client_address(&self) -> SocketAddr {
        SocketAddr::new(self.client.address, self.client.port)
    }

    /// What the four-letter words tell about the settings.
    pub fn admin_settings(&self) -> admin::Settings {
        admin::Settings {
            client_port: self.client.port,
            data_dir: self.data.dir.display().to_string(),
            log_dir: self.data.log_dir.display().to_string(),
            tick_time_ms: self.session.tick_time_ms,
            connections_per_address_max: self.client.connections_per_address_max,
            session_timeout_ms_min: self.session.timeout_ms_min,
            session_timeout_ms_max: self.session.timeout_ms_max,
            backlog: self.client.backlog,
            server_id: self.server.id,
            ensemble: self.ensemble.as_ref().map(|ensemble| self.ensemble_settings(ensemble)),
        }
    }

    /// So many ticks, and never less than it takes to notice that a leader is gone and to elect one.
    pub fn ticks_ms(&self, ticks: u32) -> u64 {
        (u64::from(ticks) * u64::from(self.session.tick_time_ms)).max(2 * self.replication.election_timeout_ms)
    }

    fn ensemble_settings(&self, ensemble: &EnsembleConfig) -> admin::EnsembleSettings {
        let own = ensemble.own();
        admin::EnsembleSettings {
            init_limit_ticks: self.replication.init_limit_ticks,
            sync_limit_ticks: self.replication.sync_limit_ticks,
            peer_port: own.peer_port,
            is_observer: own.observer,
            voters: ensemble.servers.iter().filter(|server| !server.observer).count() as u64,
            membership: ensemble.membership(),
        }
    }

    /// The settings as TOML, one section after the other, loadable again. The super digest stands as a comment only:
    /// this text ends up in logs and tickets.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for setting in SETTINGS {
            let (of, key) = setting.key.split_once('.').expect("every key has a section");
            if of != section {
                text += &format!("{}[{of}]\n", if section.is_empty() { "" } else { "\n" });
                section = of;
            }
            match setting.shown(self) {
                Some(value) => text += &format!("{key} = {value}\n"),
                None => text += &format!("# {key} is {}\n", if setting.is_set(self) { "set" } else { "not set" }),
            }
        }
        for server in self.ensemble.iter().flat_map(|ensemble| &ensemble.servers) {
            text += &toml_servers::show(server);
        }
        text
    }

    /// What holds before anything is read. `session.timeout_ms_*` 0 and an empty `data.log_dir` mean "derive it" until
    /// [`load()`] has gone through.
    fn falconer() -> Config {
        Config {
            server: Server { id: 0 },
            threads: Threads { shards: None, pinning: Pinning::Auto, pipeline: Pipeline::Shared },
            client: Client {
                address: IpAddr::V4(Ipv4Addr::LOCALHOST),
                port: 2181,
                backlog: 1024,
                connections_max: 0,
                connections_per_address_max: 60,
                limit_loopback: false,
                frame_bytes_max: limits::FRAME_BYTES_MAX,
                requests_outstanding_max: 0,
            },
            session: Session { tick_time_ms: 2000, timeout_ms_min: 0, timeout_ms_max: 0 },
            limits: Limits::default(),
            data: Data {
                dir: PathBuf::from("./falconer-data"),
                log_dir: PathBuf::new(),
                snapshot_txns: 100_000,
                snapshot_log_kb: 4 << 20,
                snapshots_retained: 3,
            },
            replication: Replication {
                election_timeout_ms: 300,
                heartbeat_ms: 50,
                disk_stall_ms: 1000,
                leaderless_ms: 4000,
                init_limit_ticks: 10,
                sync_limit_ticks: 5,
                listen_on_all_addresses: false,
                peer_secret_file: None,
                linearizable_reads: false,
            },
            features: Features { extended_types: true, enforce_quota: false, skip_acl: false, reconfig: false },
            container: Container { check_interval_ms: 60_000, deletions_per_minute_max: 10_000, never_used_ms: 300_000 },
            digest_auth: DigestAuth { enabled: true, super_digest: None },
            admin: Admin { four_letter_words: Whitelist::default() },
            log: Log { level: "info".into() },
            ensemble: None,
        }
    }

    /// What holds under a zoo.cfg before its keys are read: ZooKeeper's defaults, except that the wildcard address is
    /// IPv4 only.
    fn zookeeper() -> Config {
        let mut config = Config::falconer();
        config.client.address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        config.client.backlog = 50;
        config.client.limit_loopback = true;
        config.client.requests_outstanding_max = 1000;
        config.session.tick_time_ms = 3000;
        config.features.extended_types = false;
        config.container.never_used_ms = 0;
        config
    }
}

impl Default for Config {
    /// The settings of `falconer serve` without a config file and without a `myid`.
    fn default() -> Config {
        load::Draft::new(Config::falconer()).derive().expect("the defaults are valid").config
    }
}
