//! Four-letter words: a connection that opens with four letters instead of a handshake gets a page of text and is
//! closed. The texts are ZooKeeper's to the byte, because scripts and dashboards take them apart.
//! Refuses words that are not whitelisted, with ZooKeeper's own sentence.

use super::{ConnectionStats, Latency, ServerStats, SessionStats, VERSION};
use std::fmt::{self, Write};

/// All of ZooKeeper's words, in alphabetical order.
const WORDS: [&[u8; 4]; 18] = [
    b"conf", b"cons", b"crst", b"dirs", b"dump", b"envi", b"gtmk", b"hash", b"isro", b"mntr", b"ruok", b"srst", b"srvr", b"stat", b"stmk",
    b"wchc", b"wchp", b"wchs",
];

/// The words that have an answer here.
const ANSWERED: [&[u8; 4]; 10] = [b"conf", b"cons", b"dirs", b"envi", b"isro", b"mntr", b"ruok", b"srvr", b"stat", b"wchs"];

/// Whether the first four bytes of a connection are a word, rather than the length of a handshake.
pub fn is_word(word: [u8; 4]) -> bool {
    WORDS.contains(&&word)
}

fn text(word: &[u8; 4]) -> &str {
    std::str::from_utf8(word).expect("words are ASCII")
}

/// The words that operators may use; by default `srvr` alone, as with ZooKeeper.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whitelist {
    /// Every word that has an answer.
    All,
    /// Bit n stands for the n-th of all words.
    Some(u32),
}

impl Default for Whitelist {
    fn default() -> Whitelist {
        Whitelist::parse("srvr").expect("srvr is a word")
    }
}

impl Whitelist {
    /// Reads `*` or words between commas; `None` if something else stands there.
    pub fn parse(list: &str) -> Option<Whitelist> {
        let mut bits = 0;
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            if word == "*" {
                return Some(Whitelist::All);
            }
            bits |= 1 << WORDS.iter().position(|known| text(known) == word)?;
        }
        Some(Whitelist::Some(bits))
    }

    /// Whether a word is answered.
    pub fn allows(self, word: [u8; 4]) -> bool {
        ANSWERED.contains(&&word) && self.words().any(|known| *known == word)
    }

    /// Words that are on the list by name and have no answer.
    pub fn unanswered(self) -> Vec<&'static str> {
        match self {
            Whitelist::All => Vec::new(),
            Whitelist::Some(_) => self.words().filter(|word| !ANSWERED.contains(word)).map(text).collect(),
        }
    }

    fn words(self) -> impl Iterator<Item = &'static [u8; 4]> {
        let bits = match self {
            Whitelist::All => u32::MAX,
            Whitelist::Some(bits) => bits,
        };
        WORDS.iter().enumerate().filter(move |(n, _)| bits >> n & 1 == 1).map(|(_, word)| *word)
    }
}

impl fmt::Display for Whitelist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whitelist::All => f.write_str("*"),
            Whitelist::Some(_) => f.write_str(&self.words().map(text).collect::<Vec<_>>().join(", ")),
        }
    }
}

/// The whole answer to a word for which [`is_word`] holds.
pub fn answer(word: [u8; 4], allowed: Whitelist, stats: &ServerStats) -> String {
    if !allowed.allows(word) {
        return format!("{} is not executed because it is not in the whitelist.\n", text(&word));
    }
    match &word {
        b"ruok" => return "imok".into(),
        b"envi" => return environment(stats),
        b"isro" if !stats.serving => return "null".into(),
        _ if !stats.serving => return "This ZooKeeper instance is not currently serving requests\n".into(),
        _ => {}
    }
    match &word {
        b"isro" => if stats.mode == super::Mode::ReadOnly { "ro" } else { "rw" }.into(),
        b"srvr" => format!("{}{}", version(stats), server(stats)),
        b"stat" => format!("{}{}{}", version(stats), clients(stats), server(stats)),
        b"cons" => connections(stats),
        b"conf" => settings(stats),
        b"mntr" => metrics(stats),
        b"dirs" => format!("datadir_size: {}\nlogdir_size: {}\n", stats.data_dir_bytes, stats.log_dir_bytes),
        b"wchs" => {
            let (connections, paths) = (stats.watching_connections, stats.watched_paths);
            format!("{connections} connections watching {paths} paths\nTotal watches:{}\n", stats.watch_count)
        }
        _ => unreachable!("every word that is allowed has an answer"),
    }
}

/// Java's text of a double rounded to four decimals: at least one digit after the point, no others that are zero.
fn average(latency: Latency) -> String {
    if latency.count == 0 {
        return "0.0".into();
    }
    let rounded = format!("{:.4}", latency.sum_ms as f64 / latency.count as f64);
    let short = rounded.trim_end_matches('0');
    if short.ends_with('.') { format!("{short}0") } else { short.into() }
}

fn version(stats: &ServerStats) -> String {
    let read_only = if stats.mode == super::Mode::ReadOnly { "READ-ONLY mode; serving only read-only clients\n" } else { "" };
    format!("Zookeeper version: {VERSION}\n{read_only}")
}

fn server(stats: &ServerStats) -> String {
    let latency = stats.latency;
    let mut out = format!("Latency min/avg/max: {}/{}/{}\n", latency.min_ms, average(latency), latency.max_ms);
    line(&mut out, "Received: ", stats.packets_received);
    line(&mut out, "Sent: ", stats.packets_sent);
    line(&mut out, "Connections: ", stats.connection_count);
    line(&mut out, "Outstanding: ", stats.outstanding);
    line(&mut out, "Zxid: ", format_args!("{:#x}", stats.zxid));
    line(&mut out, "Mode: ", stats.mode.name());
    line(&mut out, "Node count: ", stats.node_count);
    out
}

fn line(out: &mut String, name: &str, value: impl fmt::Display) {
    writeln!(out, "{name}{value}").expect("a string takes everything");
}

fn clients(stats: &ServerStats) -> String {
    let mut out = String::from("Clients:\n");
    for connection in &stats.connections {
        line(&mut out, &brief(connection), ")");
    }
    out.push('\n');
    out
}

fn connections(stats: &ServerStats) -> String {
    let mut out = String::new();
    for connection in &stats.connections {
        out += &brief(connection);
        if let Some(session) = &connection.session {
            out += &particulars(session);
        }
        out += ")\n";
    }
    out.push('\n');
    out
}

/// The part that `stat` and `cons` share, up to the closing bracket. The number is Java's interest set: 1 is reading.
fn brief(connection: &ConnectionStats) -> String {
    let ConnectionStats { peer, reading, queued, received, sent, .. } = connection;
    let (address, port) = (java_address(peer.ip()), peer.port());
    format!(" /{address}:{port}[{}](queued={queued},recved={received},sent={sent}", u8::from(*reading))
}

/// Java writes IPv6 addresses in full, and IPv4 ones that came over an IPv6 socket as IPv4.
fn java_address(address: std::net::IpAddr) -> String {
    match address.to_canonical() {
        std::net::IpAddr::V4(v4) => v4.to_string(),
        std::net::IpAddr::V6(v6) => format!("[{}]", v6.segments().map(|part| format!("{part:x}")).join(":")),
    }
}

fn particulars(session: &SessionStats) -> String {
    let SessionStats { id, last_op, established_ms, timeout_ms, last_cxid, last_zxid, last_response_ms, last_latency_ms, latency } =
        session;
    let mut out = format!(",sid={id:#x},lop={last_op},est={established_ms},to={timeout_ms}");
    if *last_cxid >= 0 {
        write!(out, ",lcxid={last_cxid:#x}").expect("a string takes everything");
    }
    let average_ms = latency.sum_ms.checked_div(latency.count).unwrap_or(0);
    let (min_ms, max_ms) = (latency.min_ms, latency.max_ms);
    out + &format!(
        ",lzxid={last_zxid:#x},lresp={last_response_ms},llat={last_latency_ms},minlat={min_ms},avglat={average_ms},maxlat={max_ms}"
    )
}

fn settings(stats: &ServerStats) -> String {
    let settings = &stats.settings;
    let mut out = String::new();
    line(&mut out, "clientPort=", settings.client_port);
    line(&mut out, "secureClientPort=", -1);
    line(&mut out, "dataDir=", &settings.data_dir);
    line(&mut out, "dataDirSize=", stats.data_dir_bytes);
    line(&mut out, "dataLogDir=", &settings.log_dir);
    line(&mut out, "dataLogSize=", stats.log_dir_bytes);
    line(&mut out, "tickTime=", settings.tick_time_ms);
    line(&mut out, "maxClientCnxns=", settings.connections_per_address_max);
    line(&mut out, "minSessionTimeout=", settings.session_timeout_ms_min);
    line(&mut out, "maxSessionTimeout=", settings.session_timeout_ms_max);
    line(&mut out, "clientPortListenBacklog=", settings.backlog);
    line(&mut out, "serverId=", settings.server_id);
    out
}

fn metrics(stats: &ServerStats) -> String {
    let mut out = String::new();
    line(&mut out, "zk_version\t", VERSION);
    line(&mut out, "zk_server_state\t", stats.mode.name());
    line(&mut out, "zk_avg_latency\t", average(stats.latency));
    let numbers = [
        ("max_latency", stats.latency.max_ms),
        ("min_latency", stats.latency.min_ms),
        ("packets_received", stats.packets_received),
        ("packets_sent", stats.packets_sent),
        ("num_alive_connections", stats.connection_count),
        ("outstanding_requests", stats.outstanding),
        ("znode_count", stats.node_count),
        ("watch_count", stats.watch_count),
        ("ephemerals_count", stats.ephemeral_count),
        ("approximate_data_size", stats.data_bytes),
        ("open_file_descriptor_count", stats.open_files),
        ("max_file_descriptor_count", stats.open_files_max),
        ("global_sessions", stats.session_count),
        ("local_sessions", 0),
        ("uptime", stats.uptime_ms),
    ];
    for (name, value) in numbers {
        line(&mut out, "zk_", format_args!("{name}\t{value}"));
    }
    out
}

/// Tools look for `zookeeper.version`; the names that only a JVM has are left out.
fn environment(stats: &ServerStats) -> String {
    let host = &stats.host;
    let mut out = String::from("Environment:\n");
    line(&mut out, "zookeeper.version=", VERSION);
    line(&mut out, "host.name=", &host.name);
    line(&mut out, "os.name=", "Linux");
    line(&mut out, "os.arch=", std::env::consts::ARCH);
    line(&mut out, "os.version=", &host.os_version);
    line(&mut out, "user.name=", &host.user);
    line(&mut out, "user.home=", &host.home);
    line(&mut out, "user.dir=", &host.working_dir);
    out
}
