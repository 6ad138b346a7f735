//! The table of settings: for each its TOML key, its name in a zoo.cfg, what is allowed and where it goes. Reading
//! either kind of file, flags, `--check` and the table in docs/operating.md all walk this one list.
//! Refuses to know where a value came from.

use super::values::{parse_path, parse_pinning, resolve, show_pinning};
use super::{Config, Pipeline};
use crate::admin::fourletter::Whitelist;
use crate::limits::{ACL_BYTES_MAX, FRAME_BYTES_CEILING, IDENTITIES_BYTES_MAX, SET_WATCHES_BYTES_MAX, SHARDS_MAX};

/// One setting.
pub struct Setting {
    /// `section.key` in TOML.
    pub key: &'static str,
    /// The key in a zoo.cfg, which may also carry the prefix `zookeeper.`; empty where ZooKeeper has no such thing.
    pub zoo: &'static str,
    /// One sentence for the docs.
    pub about: &'static str,
    access: Access,
}

/// How a value is read, checked and stored.
enum Access {
    Number {
        min: u64,
        max: u64,
        set: fn(&mut Config, u64),
        get: fn(&Config) -> u64,
    },
    Switch {
        slot: fn(&mut Config) -> &mut bool,
        get: fn(&Config) -> bool,
    },
    /// `set` says whether the text is allowed. `get` may refuse to show what is secret.
    Text {
        allowed: &'static str,
        set: fn(&mut Config, &str) -> bool,
        get: fn(&Config) -> Option<String>,
    },
}

/// A value as it stands in its source.
pub(super) enum Given<'a> {
    /// From a zoo.cfg or a flag: not typed.
    Plain(&'a str),
    /// From TOML: the type must fit.
    Integer(&'a str),
    Boolean(bool),
    String(&'a str),
    /// A TOML value of a type that no setting has.
    Other,
}

impl Setting {
    /// Stores the value if it is allowed, and says so.
    pub(super) fn set(&self, config: &mut Config, given: &Given<'_>) -> bool {
        match (&self.access, given) {
            (Access::Number { min, max, set, .. }, Given::Plain(text) | Given::Integer(text)) => match number(text) {
                // ZooKeeper's way to say "the default". Where 0 means that here, -1 means it too.
                Some(-1) if *min == 0 && matches!(given, Given::Plain(_)) => {
                    set(config, 0);
                    true
                }
                Some(n) if n >= i128::from(*min) && n <= i128::from(*max) => {
                    set(config, n as u64);
                    true
                }
                _ => false,
            },
            (Access::Switch { slot, .. }, Given::Boolean(on)) => {
                *slot(config) = *on;
                true
            }
            (Access::Switch { slot, .. }, Given::Plain(text)) => switch(text).is_some_and(|on| {
                *slot(config) = on;
                true
            }),
            (Access::Text { set, .. }, Given::Plain(text) | Given::String(text)) => set(config, text),
            _ => false,
        }
    }

    /// What may stand there, in words.
    pub fn allowed(&self) -> String {
        match self.access {
            Access::Number { min, max, .. } => format!("{min} to {max}"),
            Access::Switch { .. } => "true or false".into(),
            Access::Text { allowed, .. } => allowed.into(),
        }
    }

    /// Whether there is a value where [`Setting::shown`] has none.
    pub(super) fn is_set(&self, config: &Config) -> bool {
        match self.key {
            "digest_auth.super_digest" => config.digest_auth.super_digest.is_some(),
            _ => self.shown(config).is_some(),
        }
    }

    /// The value as TOML; `None` for a secret, and for a path that was not given.
    pub(super) fn shown(&self, config: &Config) -> Option<String> {
        match self.access {
            Access::Number { get, .. } => Some(get(config).to_string()),
            Access::Switch { get, .. } => Some(get(config).to_string()),
            Access::Text { get, .. } => get(config).map(|text| toml::Value::String(text).to_string()),
        }
    }
}

/// Decimal, or hexadecimal with 0x. `_` may group digits as in TOML.
fn number(text: &str) -> Option<i128> {
    let digits = text.replace('_', "");
    match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) if !hex.starts_with(['+', '-']) => i128::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None => digits.parse().ok(),
    }
}

fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" => Some(true),
        "false" | "no" => Some(false),
        _ => None,
    }
}

const fn number_setting(
    key: &'static str,
    zoo: &'static str,
    about: &'static str,
    (min, max): (u64, u64),
    set: fn(&mut Config, u64),
    get: fn(&Config) -> u64,
) -> Setting {
    Setting { key, zoo, about, access: Access::Number { min, max, set, get } }
}

const fn switch_setting(
    key: &'static str,
    zoo: &'static str,
    about: &'static str,
    slot: fn(&mut Config) -> &mut bool,
    get: fn(&Config) -> bool,
) -> Setting {
    Setting { key, zoo, about, access: Access::Switch { slot, get } }
}

const fn text_setting(
    key: &'static str,
    zoo: &'static str,
    about: &'static str,
    allowed: &'static str,
    set: fn(&mut Config, &str) -> bool,
    get: fn(&Config) -> Option<String>,
) -> Setting {
    Setting { key, zoo, about, access: Access::Text { allowed, set, get } }
}

/// One of the section `limits`: the field has the key's name.
macro_rules! limit {
    ($field:ident $zoo:literal $about:literal $min:literal to $max:expr) => {
        number_setting(
            concat!("limits.", stringify!($field)),
            $zoo,
            $about,
            ($min, $max as u64),
            |c, n| c.limits.$field = n,
            |c| c.limits.$field,
        )
    };
}

/// The most that a limit in bytes can be set to: more would be none.
const GIB: u64 = 1 << 30;

const U32: (u64, u64) = (0, u32::MAX as u64);
const TIMEOUT_MS: (u64, u64) = (0, i32::MAX as u64);
/// A year: longer intervals are mistakes.
const INTERVAL_MS_MAX: u64 = 366 * 24 * 3600 * 1000;

/// All settings, by section.
pub static SETTINGS: &[Setting] = &[
    number_setting(
        "server.id",
        "",
        "Who this server is; 1 to 254 in an ensemble. A file `myid` in the data directory says it too, and gives way to this.",
        (0, 254),
        |c, n| c.server.id = n as u16,
        |c| u64::from(c.server.id),
    ),
    number_setting(
        "threads.shards",
        "",
        "Threads that serve clients, each with its own copy of the tree. 0: one per core the process may use.",
        (0, SHARDS_MAX as u64),
        |c, n| c.threads.shards = if n == 0 { None } else { Some(n as usize) },
        |c| c.threads.shards.unwrap_or(0) as u64,
    ),
    text_setting(
        "threads.pinning",
        "",
        "Which core each thread stays on: one each as long as there are enough, wherever the kernel likes, or these.",
        "\"auto\", \"none\", or cores like \"0,2,4-7\"",
        |c, text| parse_pinning(text).map(|pinning| c.threads.pinning = pinning).is_some(),
        |c| Some(show_pinning(&c.threads.pinning)),
    ),
    text_setting(
        "threads.pipeline",
        "",
        "Whether writes are prepared and logged on the first client thread or on a thread of their own.",
        "\"shared\" or \"dedicated\"",
        |c, text| match text {
            "shared" => (c.threads.pipeline = Pipeline::Shared, true).1,
            "dedicated" => (c.threads.pipeline = Pipeline::Dedicated, true).1,
            _ => false,
        },
        |c| Some(if c.threads.pipeline == Pipeline::Shared { "shared" } else { "dedicated" }.into()),
    ),
    text_setting(
        "client.address",
        "clientPortAddress",
        "The address clients connect to; a name is resolved once, at start.",
        "an IP address or a host name that resolves",
        |c, text| resolve(text).map(|address| c.client.address = address).is_some(),
        |c| Some(c.client.address.to_string()),
    ),
    number_setting(
        "client.port",
        "clientPort",
        "The port clients connect to. 0: any free one.",
        (0, 65535),
        |c, n| c.client.port = n as u16,
        |c| u64::from(c.client.port),
    ),
    number_setting(
        "client.backlog",
        "clientPortListenBacklog",
        "Connections that the kernel holds until they are accepted. 0: 50, as Java has it.",
        (0, 65535),
        |c, n| c.client.backlog = if n == 0 { 50 } else { n as u32 },
        |c| u64::from(c.client.backlog),
    ),
    number_setting(
        "client.connections_max",
        "maxCnxns",
        "Client connections in all. 0: no limit.",
        U32,
        |c, n| c.client.connections_max = n as u32,
        |c| u64::from(c.client.connections_max),
    ),
    number_setting(
        "client.connections_per_address_max",
        "maxClientCnxns",
        "Client connections from one address. 0: no limit.",
        U32,
        |c, n| c.client.connections_per_address_max = n as u32,
        |c| u64::from(c.client.connections_per_address_max),
    ),
    switch_setting(
        "client.limit_loopback",
        "",
        "Whether the limit per address holds for loopback addresses too.",
        |c| &mut c.client.limit_loopback,
        |c| c.client.limit_loopback,
    ),
    number_setting(
        "client.frame_bytes_max",
        "jute.maxbuffer",
        "The largest request, in bytes; a larger one closes the connection.",
        (1024, FRAME_BYTES_CEILING as u64),
        |c, n| c.client.frame_bytes_max = n as usize,
        |c| c.client.frame_bytes_max as u64,
    ),
    number_setting(
        "client.requests_outstanding_max",
        "globalOutstandingLimit",
        "Requests in progress beyond which connections that have some are not read. 0: bounded by bytes only.",
        U32,
        |c, n| c.client.requests_outstanding_max = n as u32,
        |c| u64::from(c.client.requests_outstanding_max),
    ),
    number_setting(
        "session.tick_time_ms",
        "tickTime",
        "The grain of session timing.",
        (1, 600_000),
        |c, n| c.session.tick_time_ms = n as u32,
        |c| u64::from(c.session.tick_time_ms),
    ),
    number_setting(
        "session.timeout_ms_min",
        "minSessionTimeout",
        "The shortest timeout a client can negotiate. 0: two ticks.",
        TIMEOUT_MS,
        |c, n| c.session.timeout_ms_min = n as u32,
        |c| u64::from(c.session.timeout_ms_min),
    ),
    number_setting(
        "session.timeout_ms_max",
        "maxSessionTimeout",
        "The longest timeout a client can negotiate. 0: twenty ticks.",
        TIMEOUT_MS,
        |c, n| c.session.timeout_ms_max = n as u32,
        |c| u64::from(c.session.timeout_ms_max),
    ),
    limit! { sessions_max "" "Sessions of this server. A handshake for one more is closed unanswered. 0: no limit." 0 to u32::MAX },
    limit! { handshake_timeout_ms "nio.sessionlessCnxnTimeout" "A connection that has no session after this is closed." 100 to 600_000 },
    limit! { set_watches_bytes_max "" "The largest setWatches, if that is more than `client.frame_bytes_max`." 1024 to SET_WATCHES_BYTES_MAX },
    limit! { unparsed_bytes_max "" "Unfinished requests of all connections; beyond it, who adds to one of more than 64 KiB is closed." 65536 to 64 * GIB },
    limit! { queued_bytes_max "" "Unread replies and waiting requests of all connections; beyond it each connection has 64 KiB." 65536 to 1024 * GIB },
    limit! { requests_per_connection_max "" "Requests of one connection that wait for a transaction; it is not read on beyond them." 1 to 100_000 },
    limit! { held_bytes_max "" "The bytes of those that wait for a transaction only to keep their turn." 1024 to GIB },
    limit! { output_bytes_max "" "Unread replies of one connection, beyond which its requests wait." 1024 to GIB },
    limit! { event_bytes_max "" "Watch events that one connection has not read; it is closed beyond them." 1024 to GIB },
    limit! { identities_bytes_max "" "What `addauth` adds up to on one connection; one more fails and closes it." 256 to IDENTITIES_BYTES_MAX },
    limit! { acl_entries_max "" "Different entries in one access control list; InvalidACL beyond them." 1 to 10_000 },
    limit! { acl_bytes_max "" "An access control list as it is stored; InvalidACL beyond it." 64 to ACL_BYTES_MAX },
    limit! { watches_per_connection_max "" "Watched paths of one connection; SystemError beyond them." 1 to 100_000_000 },
    limit! { watches_per_shard_max "" "Watches of all connections of one client thread; SystemError beyond them." 1 to 100_000_000 },
    text_setting(
        "data.dir",
        "dataDir",
        "Where snapshots lie, and the log unless `log_dir` says otherwise. Made when missing.",
        "a path",
        |c, text| parse_path(text).map(|path| c.data.dir = path).is_some(),
        |c| Some(c.data.dir.display().to_string()),
    ),
    text_setting(
        "data.log_dir",
        "dataLogDir",
        "Where the transaction log lies; best on a device of its own. Default: `dir`.",
        "a path",
        |c, text| parse_path(text).map(|path| c.data.log_dir = path).is_some(),
        |c| Some(c.data.log_dir.display().to_string()),
    ),
    number_setting(
        "data.snapshot_txns",
        "snapCount",
        "Transactions after which a snapshot is due.",
        (2, u32::MAX as u64),
        |c, n| c.data.snapshot_txns = n as u32,
        |c| u64::from(c.data.snapshot_txns),
    ),
    number_setting(
        "data.snapshot_log_kb",
        "snapSizeLimitInKb",
        "Log since the last snapshot, in KiB, after which the next one is due. 0: no such limit.",
        (0, 1 << 40),
        |c, n| c.data.snapshot_log_kb = n,
        |c| c.data.snapshot_log_kb,
    ),
    number_setting(
        "data.snapshots_retained",
        "autopurge.snapRetainCount",
        "Snapshots kept. Older ones, and the log that only they need, are removed.",
        (3, 1000),
        |c, n| c.data.snapshots_retained = n as u32,
        |c| u64::from(c.data.snapshots_retained),
    ),
    number_setting(
        "replication.election_timeout_ms",
        "",
        "Silence after which the other servers elect a new leader. Longer for links that are slow or lose packets.",
        (100, 60_000),
        |c, n| c.replication.election_timeout_ms = n,
        |c| c.replication.election_timeout_ms,
    ),
    number_setting(
        "replication.heartbeat_ms",
        "",
        "How often a leader is heard at least; at most a third of `election_timeout_ms`.",
        (5, 20_000),
        |c, n| c.replication.heartbeat_ms = n,
        |c| c.replication.heartbeat_ms,
    ),
    number_setting(
        "replication.disk_stall_ms",
        "",
        "A leader whose log write takes longer gives up its place: its disk hangs.",
        (100, 600_000),
        |c, n| c.replication.disk_stall_ms = n,
        |c| c.replication.disk_stall_ms,
    ),
    number_setting(
        "replication.leaderless_ms",
        "",
        "Without a leader for longer, client connections are closed; at least twice `election_timeout_ms`. Until then writes wait.",
        (200, 600_000),
        |c, n| c.replication.leaderless_ms = n,
        |c| c.replication.leaderless_ms,
    ),
    number_setting(
        "replication.init_limit_ticks",
        "initLimit",
        "Ticks after which a server that catches up with the leader, and gets no further, starts over. How long all of it takes is not limited.",
        (1, 1_000_000),
        |c, n| c.replication.init_limit_ticks = n as u32,
        |c| u64::from(c.replication.init_limit_ticks),
    ),
    number_setting(
        "replication.sync_limit_ticks",
        "syncLimit",
        "Ticks after which a server that has caught up, and confirms nothing of what the leader sends, starts over, unless its disk is full.",
        (1, 1_000_000),
        |c, n| c.replication.sync_limit_ticks = n as u32,
        |c| u64::from(c.replication.sync_limit_ticks),
    ),
    switch_setting(
        "replication.listen_on_all_addresses",
        "quorumListenOnAllIPs",
        "Whether to listen for other servers on all addresses, not only on the one in the list of servers.",
        |c| &mut c.replication.listen_on_all_addresses,
        |c| c.replication.listen_on_all_addresses,
    ),
    text_setting(
        "replication.peer_secret_file",
        "peerSecretFile",
        "A file with at least 32 bytes that all servers share: they prove with it that they belong together. Needed off loopback.",
        "a path",
        |c, text| parse_path(text).map(|path| c.replication.peer_secret_file = Some(path)).is_some(),
        |c| c.replication.peer_secret_file.as_ref().map(|path| path.display().to_string()),
    ),
    switch_setting(
        "replication.linearizable_reads",
        "",
        "Whether every read sees all writes acknowledged before it by any server, for a round trip to the leader. A server alone always does so.",
        |c| &mut c.replication.linearizable_reads,
        |c| c.replication.linearizable_reads,
    ),
    switch_setting(
        "features.extended_types",
        "extendedTypesEnabled",
        "Whether TTL nodes can be created.",
        |c| &mut c.features.extended_types,
        |c| c.features.extended_types,
    ),
    switch_setting(
        "features.enforce_quota",
        "enforceQuota",
        "Whether writes beyond a hard quota are refused.",
        |c| &mut c.features.enforce_quota,
        |c| c.features.enforce_quota,
    ),
    switch_setting(
        "features.skip_acl",
        "skipACL",
        "Whether permissions are not checked at all.",
        |c| &mut c.features.skip_acl,
        |c| c.features.skip_acl,
    ),
    switch_setting(
        "features.reconfig",
        "reconfigEnabled",
        "Whether reconfig is refused as unimplemented, as a ZooKeeper without peers does, or as disabled.",
        |c| &mut c.features.reconfig,
        |c| c.features.reconfig,
    ),
    number_setting(
        "container.check_interval_ms",
        "znode.container.checkIntervalMs",
        "How often empty containers and expired TTL nodes are looked for.",
        (1, INTERVAL_MS_MAX),
        |c, n| c.container.check_interval_ms = n,
        |c| c.container.check_interval_ms,
    ),
    number_setting(
        "container.deletions_per_minute_max",
        "znode.container.maxPerMinute",
        "How many of them are removed per minute, at most.",
        (1, u32::MAX as u64),
        |c, n| c.container.deletions_per_minute_max = n as u32,
        |c| u64::from(c.container.deletions_per_minute_max),
    ),
    number_setting(
        "container.never_used_ms",
        "znode.container.maxNeverUsedIntervalMs",
        "Age at which a container that never had a child is removed. 0: never.",
        (0, INTERVAL_MS_MAX),
        |c, n| c.container.never_used_ms = n,
        |c| c.container.never_used_ms,
    ),
    switch_setting(
        "digest_auth.enabled",
        "DigestAuthenticationProvider.enabled",
        "Whether clients can authenticate with the scheme `digest`.",
        |c| &mut c.digest_auth.enabled,
        |c| c.digest_auth.enabled,
    ),
    text_setting(
        "digest_auth.algorithm",
        "DigestAuthenticationProvider.digestAlg",
        "The hash behind `digest` identities; there is no other yet.",
        "\"SHA1\"",
        |_, text| matches!(text, "SHA1" | "SHA-1" | "SHA"),
        |_| Some("SHA1".into()),
    ),
    text_setting(
        "digest_auth.super_digest",
        "DigestAuthenticationProvider.superDigest",
        "Whoever authenticates to this passes every permission check. Never shown or logged.",
        "user:base64(hash(user:password))",
        |c, text| match text.split_once(':') {
            Some((user, digest)) if !user.is_empty() && !digest.is_empty() => (c.digest_auth.super_digest = Some(text.into()), true).1,
            _ => false,
        },
        |_| None,
    ),
    text_setting(
        "admin.four_letter_words",
        "4lw.commands.whitelist",
        "The four-letter words that are answered.",
        "\"*\", or words of conf, cons, crst, dirs, dump, envi, gtmk, hash, isro, mntr, ruok, srst, srvr, stat, stmk, wchc, wchp, wchs",
        |c, text| Whitelist::parse(text).map(|words| c.admin.four_letter_words = words).is_some(),
        |c| Some(c.admin.four_letter_words.to_string()),
    ),
    text_setting(
        "log.level",
        "",
        "The least important messages that are logged. The environment variable FALCONER_LOG wins over it.",
        "off, error, warn, info, debug or trace",
        |c, text| match text {
            "off" | "error" | "warn" | "info" | "debug" | "trace" => (c.log.level = text.into(), true).1,
            _ => false,
        },
        |c| Some(c.log.level.clone()),
    ),
];

/// The settings as a Markdown table for docs/operating.md.
pub fn settings_table() -> String {
    let defaults = Config::default();
    let under_zoo = Config::zookeeper();
    let mut text = String::from("| setting | in a zoo.cfg | default | allowed | meaning |\n|---|---|---|---|---|\n");
    for setting in SETTINGS {
        let ours = setting.shown(&defaults).unwrap_or_default();
        let theirs = setting.shown(&under_zoo).unwrap_or_default();
        // What is derived later differs only because it is not derived yet.
        let derived = matches!(setting.key, "session.timeout_ms_min" | "session.timeout_ms_max" | "data.log_dir");
        let default = if ours == theirs || derived || setting.zoo == "dataDir" { ours } else { format!("{ours}; {theirs} with a zoo.cfg") };
        text += &format!("| {} | {} | {default} | {} | {} |\n", setting.key, setting.zoo, setting.allowed(), setting.about);
    }
    text
}
