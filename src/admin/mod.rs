//! What operators can ask a running server. [`ServerStats`] is plain numbers that the loops fill in at the moment of
//! the question; the modules beside it turn them into text.
//! Refuses to reach for anything itself: no locks, no files, no clock.

pub mod date;
pub mod dump;
mod ensemble;
pub mod fourletter;

/// The version that is told to clients: the ZooKeeper release whose behaviour this follows, then our own.
pub const VERSION: &str = concat!("3.9.5-falconer-", env!("CARGO_PKG_VERSION"), ", built on ", env!("FALCONER_BUILD_DATE"));

/// What the server is to its clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    #[default]
    Standalone,
    Leader,
    Follower,
    Observer,
    ReadOnly,
}

impl Mode {
    /// ZooKeeper's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Standalone => "standalone",
            Mode::Leader => "leader",
            Mode::Follower => "follower",
            Mode::Observer => "observer",
            Mode::ReadOnly => "read-only",
        }
    }
}

/// Times between a request's arrival and its reply, in whole milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Latency {
    /// 0 when nothing was measured.
    pub min_ms: u64,
    pub max_ms: u64,
    pub sum_ms: u64,
    pub count: u64,
}

impl Latency {
    /// Takes in what another core measured.
    pub fn merge(&mut self, other: Latency) {
        self.min_ms = match (self.count, other.count) {
            (0, _) => other.min_ms,
            (_, 0) => self.min_ms,
            _ => self.min_ms.min(other.min_ms),
        };
        self.max_ms = self.max_ms.max(other.max_ms);
        self.sum_ms += other.sum_ms;
        self.count += other.count;
    }
}

/// A server at one moment. Sums over all cores.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerStats {
    /// False while the server starts, or has no leader.
    pub serving: bool,
    pub mode: Mode,
    /// Of a member of an ensemble.
    pub replication: Option<Replication>,
    pub latency: Latency,
    pub packets_received: u64,
    pub packets_sent: u64,
    /// Open client connections, the asking one included.
    pub connection_count: u64,
    /// Their particulars, in the order to show; left empty by who only needs the count.
    pub connections: Vec<ConnectionStats>,
    /// Requests that came in and were not answered yet.
    pub outstanding: u64,
    pub zxid: u64,
    pub node_count: u64,
    pub ephemeral_count: u64,
    /// Bytes of all paths and data.
    pub data_bytes: u64,
    pub session_count: u64,
    pub watch_count: u64,
    /// Watches on data alone, the connections that have any, and the distinct paths.
    pub data_watches: u64,
    pub watching_connections: u64,
    pub watched_paths: u64,
    pub traffic: Traffic,
    pub limits: LimitFigures,
    /// What `gtmk` shows.
    pub trace_mask: i64,
    /// Filled in for the words that list them.
    pub lists: Lists,
    pub uptime_ms: u64,
    pub open_files: u64,
    pub open_files_max: u64,
    /// Bytes of snapshots and of the log on disk.
    pub data_dir_bytes: u64,
    pub log_dir_bytes: u64,
    pub settings: Settings,
    /// What the machine is called and what runs on it, for `envi`.
    pub host: Host,
}

/// A member of an ensemble at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replication {
    pub mode: Mode,
    /// ZooKeeper's words for role and phase.
    pub state: &'static str,
    pub epoch: u32,
    /// How long a leader has led, else 0.
    pub leads_for_ms: u64,
    /// Requests that wait for proof that this server leads.
    pub barriers_waiting: u64,
    /// From the loss of a leader until the next one served here.
    pub elections: Latency,
    /// Of a leader: who follows it.
    pub learners: Vec<Learner>,
}

/// A server that follows this leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Learner {
    pub server: u16,
    pub is_voter: bool,
    /// Its acknowledgements count; not those of a voter that has lost its disk.
    pub counts: bool,
    pub synced: bool,
    pub behind_txns: u64,
    pub in_flight_bytes: u64,
}

/// What has come and gone since the start, or since `srst`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Of all frames, lengths included.
    pub bytes_received: u64,
    /// Handshakes, whatever became of them.
    pub connection_requests: u64,
    /// Refused because there were too many.
    pub connections_rejected: u64,
    pub auth_failures: u64,
    /// Closed because they did not shake hands in time.
    pub sessionless_expired: u64,
    /// Bytes of watch events.
    pub watch_bytes: u64,
}

/// What clients make the server hold, and how often they have met a limit since the start or since `srst`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LimitFigures {
    /// Input that is not a whole request yet, at this moment.
    pub unparsed_bytes: u64,
    /// Replies that were not read and requests that wait, at this moment.
    pub queued_bytes: u64,
    /// Connections closed for a request beyond the largest frame.
    pub large_requests_rejected: u64,
    /// Times that a connection was not read on.
    pub receive_pauses: u64,
    /// Connections closed for an unfinished request when all had too many bytes of them.
    pub partial_requests_closed: u64,
    /// Connections closed because they did not read their watch events.
    pub watchers_closed: u64,
    pub sessions_refused: u64,
    /// Requests refused because there were too many watches.
    pub watches_refused: u64,
    /// Writes refused with the codes that limits give, whatever the reason was.
    pub writes_system_error: u64,
    pub writes_bad_arguments: u64,
    pub writes_invalid_acl: u64,
    pub writes_quota_exceeded: u64,
}

/// What is too long to be gathered unless it is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lists {
    /// Sessions with the wall time, ms since 1970, at which they expire unless they are heard from.
    pub session_expiries: Vec<(i64, i64)>,
    /// Sessions that own ephemeral nodes, by id, with the paths.
    pub ephemerals: Vec<(i64, Vec<String>)>,
    /// Connections that have not shaken hands, with the wall time at which they are closed.
    pub sessionless: Vec<(std::net::SocketAddr, i64)>,
    /// Session and path of every watch on data.
    pub watches: Vec<(i64, String)>,
    /// The digest of the whole state at `zxid`.
    pub digest: Option<u128>,
    /// Sessions and connections expire in steps of this.
    pub expiry_step_ms: i64,
}

/// One client connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectionStats {
    pub peer: std::net::SocketAddr,
    /// Whether requests are being read from it.
    pub reading: bool,
    pub queued: u64,
    pub received: u64,
    pub sent: u64,
    /// None before the handshake.
    pub session: Option<SessionStats>,
}

/// The session on a connection, as `cons` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionStats {
    pub id: i64,
    /// ZooKeeper's four-letter name of the last operation, "NA" before the first.
    pub last_op: &'static str,
    /// Wall clock, ms since 1970.
    pub established_ms: i64,
    pub timeout_ms: u32,
    /// The xid of the last request; negative: none yet.
    pub last_cxid: i64,
    /// The zxid of the last reply; -1: none yet.
    pub last_zxid: i64,
    /// Clock of the server, ms, when the last reply left; 0: none yet.
    pub last_response_ms: u64,
    pub last_latency_ms: u64,
    pub latency: Latency,
}

/// Settings that are told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    pub client_port: u16,
    pub data_dir: String,
    pub log_dir: String,
    pub tick_time_ms: u32,
    pub connections_per_address_max: u32,
    pub session_timeout_ms_min: u32,
    pub session_timeout_ms_max: u32,
    pub backlog: u32,
    pub server_id: u16,
    /// Of a member of an ensemble.
    pub ensemble: Option<EnsembleSettings>,
}

/// What a member of an ensemble tells about that.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EnsembleSettings {
    pub init_limit_ticks: u32,
    pub sync_limit_ticks: u32,
    pub peer_port: u16,
    pub is_observer: bool,
    /// Servers that vote.
    pub voters: u64,
    /// As `/zookeeper/config` has it.
    pub membership: String,
}

/// Where the server runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Host {
    pub name: String,
    pub os_version: String,
    pub user: String,
    pub home: String,
    pub working_dir: String,
}
