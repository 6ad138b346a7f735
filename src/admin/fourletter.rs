//! Four-letter words: a connection that opens with four letters instead of a handshake gets a page of text and is
//! closed. The texts are ZooKeeper's to the byte, because scripts and dashboards take them apart.
//! Refuses words that are not whitelisted, with ZooKeeper's own sentence.

use super::{ConnectionStats, Latency, ServerStats, SessionStats, VERSION, dump, ensemble};
use std::fmt::{self, Write};

/// All of ZooKeeper's words, in alphabetical order.
const WORDS: [&[u8; 4]; 18] = [
    b"conf", b"cons", b"crst", b"dirs", b"dump", b"envi", b"gtmk", b"hash", b"isro", b"mntr", b"ruok", b"srst", b"srvr", b"stat", b"stmk",
    b"wchc", b"wchp", b"wchs",
];

/// The trace mask before anybody sets another: ZooKeeper's. Here it is only kept.
pub const TRACE_MASK: i64 = 0x132;

/// Bytes that belong to a word and follow it; None if the first four bytes of a connection are no word, but the length of a
/// handshake.
pub fn argument_bytes(word: [u8; 4]) -> Option<usize> {
    WORDS.contains(&&word).then_some(if word == *b"stmk" { 8 } else { 0 })
}

fn text(word: &[u8; 4]) -> &str {
    std::str::from_utf8(word).expect("words are ASCII")
}

/// The words that operators may use; by default `srvr` alone, as with ZooKeeper.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whitelist {
    /// Every word.
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
        self.words().any(|known| *known == word)
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

/// The whole answer to a word that [`argument_bytes`] knows. What crst, srst and stmk change has been changed already.
pub fn answer(word: [u8; 4], allowed: Whitelist, stats: &ServerStats) -> String {
    if !allowed.allows(word) {
        return format!("{} is not executed because it is not in the whitelist.\n", text(&word));
    }
    match &word {
        b"ruok" => return "imok".into(),
        b"envi" => return environment(stats),
        b"gtmk" | b"stmk" => return stats.trace_mask.to_string(),
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
            format!("{connections} connections watching {paths} paths\nTotal watches:{}\n", stats.data_watches)
        }
        b"wchc" => dump::watches_by_session(&stats.lists.watches),
        b"wchp" => dump::watches_by_path(&stats.lists.watches),
        b"dump" => dump::sessions(stats),
        b"hash" => stats.lists.digest.map_or(String::new(), |digest| format!("{:x}: {}\n", stats.zxid, digest as i64)),
        b"crst" => "Connection stats reset.\n".into(),
        b"srst" => "Server stats reset.\n".into(),
        _ => unreachable!("every word that is allowed has an answer"),
    }
}

/// Java's text of a double rounded to four decimals: at least one digit after the point, no others that are zero.
pub(super) fn average(latency: Latency) -> String {
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

pub(super) fn line(out: &mut String, name: &str, value: impl fmt::Display) {
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
pub(super) fn java_address(address: std::net::IpAddr) -> String {
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
    if let Some(ensemble) = &settings.ensemble {
        line(&mut out, "initLimit=", ensemble.init_limit_ticks);
        line(&mut out, "syncLimit=", ensemble.sync_limit_ticks);
        line(&mut out, "electionAlg=", 3);
        // Elections need no port of their own here.
        line(&mut out, "electionPort=", ensemble.peer_port);
        line(&mut out, "quorumPort=", ensemble.peer_port);
        line(&mut out, "peerType=", u8::from(ensemble.is_observer));
        line(&mut out, "membership: ", "");
        out += &ensemble.membership;
    }
    out
}

fn metrics(stats: &ServerStats) -> String {
    let mut out = String::new();
    line(&mut out, "zk_version\t", VERSION);
    line(&mut out, "zk_server_state\t", stats.mode.name());
    if let Some(replication) = &stats.replication {
        line(&mut out, "zk_peer_state\t", replication.state);
    }
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
        ("bytes_received_count", stats.traffic.bytes_received),
        ("connection_request_count", stats.traffic.connection_requests),
        ("connection_rejected", stats.traffic.connections_rejected),
        ("auth_failed_count", stats.traffic.auth_failures),
        ("sessionless_connections_expired", stats.traffic.sessionless_expired),
        ("watch_bytes", stats.traffic.watch_bytes),
        ("large_requests_rejected", stats.limits.large_requests_rejected),
    ];
    for (name, value) in numbers {
        line(&mut out, "zk_", format_args!("{name}\t{value}"));
    }
    for (name, value) in own_metrics(stats) {
        line(&mut out, OWN_PREFIX, format_args!("{name}\t{value}"));
    }
    if let Some(replication) = &stats.replication {
        ensemble::metrics(stats, replication, &mut out);
    }
    out
}

/// Before the names of metrics that ZooKeeper does not have.
pub(super) const OWN_PREFIX: &str = "zk_falconer_";

fn own_metrics(stats: &ServerStats) -> [(&'static str, u64); 11] {
    let limits = &stats.limits;
    [
        ("unparsed_bytes", limits.unparsed_bytes),
        ("queued_bytes", limits.queued_bytes),
        ("receive_pauses", limits.receive_pauses),
        ("partial_requests_closed", limits.partial_requests_closed),
        ("watchers_closed", limits.watchers_closed),
        ("sessions_refused", limits.sessions_refused),
        ("watches_refused", limits.watches_refused),
        ("writes_refused_system_error", limits.writes_system_error),
        ("writes_refused_bad_arguments", limits.writes_bad_arguments),
        ("writes_refused_invalid_acl", limits.writes_invalid_acl),
        ("writes_refused_quota_exceeded", limits.writes_quota_exceeded),
    ]
}

/// Tools look for `zookeeper.version`; the names that only a JVM has are left out.
fn environment(stats: &ServerStats) -> String {
    let host = &stats.host;
    let mut out = String::from("Environment:\n");
    line(&mut out, "zookeeper.version=", VERSION);
    line(&mut out, "host.name=", &host.name);
    line(&mut out, "os.name=", "Linux");
    line(&mut out, "os.arch=", if cfg!(target_arch = "x86_64") { "amd64" } else { std::env::consts::ARCH });
    line(&mut out, "os.version=", &host.os_version);
    line(&mut out, "user.name=", &host.user);
    line(&mut out, "user.home=", &host.home);
    line(&mut out, "user.dir=", &host.working_dir);
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Host, LimitFigures, Lists, Mode, Settings, Traffic};
    use super::*;

    /// What the captured server says in place of our version.
    const CAPTURED: &str = "3.9.3-c26634f34490bb0ea7a09cc51e05ede3b4e320ee, built on 2024-10-17 23:21 UTC";

    macro_rules! captured {
        ($word:literal) => {
            include_str!(concat!("../../tests/golden/fourletter/", $word, ".txt")).replace(CAPTURED, VERSION)
        };
    }

    fn connection(port: u16, reading: bool, packets: (u64, u64), session: Option<SessionStats>) -> ConnectionStats {
        let peer = ([127, 0, 0, 1], port).into();
        ConnectionStats { peer, reading, queued: 0, received: packets.0, sent: packets.1, session }
    }

    fn session(id: i64, last_op: &'static str, established_ms: i64, last_response_ms: u64, latency: Latency) -> SessionStats {
        let last_latency_ms = u64::from(last_op == "CREA");
        SessionStats {
            id,
            last_op,
            established_ms,
            timeout_ms: 30_000,
            last_cxid: 3,
            last_zxid: 5,
            last_response_ms,
            last_latency_ms,
            latency,
        }
    }

    /// The server that the captured answers came from, at the moment of `srvr`.
    fn stats() -> ServerStats {
        let first = Latency { min_ms: 0, max_ms: 5, sum_ms: 13, count: 4 };
        let second = Latency { min_ms: 0, max_ms: 1, sum_ms: 2, count: 4 };
        ServerStats {
            serving: true,
            mode: Mode::Standalone,
            replication: None,
            latency: Latency { min_ms: 0, max_ms: 5, sum_ms: 15, count: 8 },
            packets_received: 13,
            packets_sent: 12,
            connection_count: 3,
            connections: vec![
                connection(39322, false, (1, 0), None),
                connection(39282, true, (4, 4), Some(session(0x100003a5b150000, "CREA", 1795548562534, 3824541, first))),
                connection(39296, true, (4, 4), Some(session(0x100003a5b150001, "ADDW", 1795548562544, 3824545, second))),
            ],
            outstanding: 0,
            zxid: 5,
            node_count: 8,
            ephemeral_count: 2,
            data_bytes: 60,
            session_count: 2,
            watch_count: 3,
            data_watches: 2,
            traffic: Traffic { bytes_received: 370, connection_requests: 2, ..Traffic::default() },
            limits: LimitFigures::default(),
            lists: Lists::default(),
            trace_mask: TRACE_MASK,
            watching_connections: 1,
            watched_paths: 2,
            uptime_ms: 193,
            open_files: 43,
            open_files_max: 20_000,
            data_dir_bytes: 67_109_358,
            log_dir_bytes: 67_109_358,
            settings: Settings {
                client_port: 50917,
                data_dir: "/golden/data/version-2".into(),
                log_dir: "/golden/data/version-2".into(),
                tick_time_ms: 2000,
                connections_per_address_max: 60,
                session_timeout_ms_min: 4000,
                session_timeout_ms_max: 40_000,
                backlog: 50,
                server_id: 0,
                ensemble: None,
            },
            host: Host::default(),
        }
    }

    fn ask(word: &str, stats: &ServerStats) -> String {
        answer(word.as_bytes().try_into().unwrap(), Whitelist::All, stats)
    }

    #[test]
    fn answers_are_those_of_a_real_server() {
        assert_eq!(ask("ruok", &stats()), captured!("ruok"));
        assert_eq!(ask("isro", &stats()), captured!("isro"));
        assert_eq!(ask("srvr", &stats()), captured!("srvr"));
        assert_eq!(ask("cons", &stats()), captured!("cons"));
        assert_eq!(ask("dirs", &stats()), captured!("dirs"));
        assert_eq!(ask("wchs", &stats()), captured!("wchs"));
        assert_eq!((ask("crst", &stats()), ask("srst", &stats())), (captured!("crst"), captured!("srst")));
        assert_eq!(ask("gtmk", &stats()), captured!("gtmk"));
        let mut masked = stats();
        (masked.trace_mask, masked.serving) = (10, false);
        assert_eq!(ask("stmk", &masked), captured!("stmk"));
        assert_eq!(ask("hash", &stats()), captured!("hash"));
        // Ours knows its backlog, Java leaves it to the JDK.
        assert_eq!(ask("conf", &stats()), captured!("conf").replace("Backlog=-1", "Backlog=50"));
        let refused = answer(*b"ruok", Whitelist::default(), &stats());
        assert_eq!(refused, captured!("refused"));
    }

    #[test]
    fn lists_are_those_of_a_real_server() {
        let (first, second) = (0x100003a5b150000, 0x100003a5b150001);
        let mut stats = stats();
        stats.lists.watches = vec![(second, "/a/e1".into()), (second, "/a".into())];
        assert_eq!((ask("wchc", &stats), ask("wchp", &stats)), (captured!("wchc"), captured!("wchp")));
        // 19:29:54 is the end of both steps that the captured server shows.
        let end_ms = 1_795_548_594_000;
        stats.lists.session_expiries = vec![(first, end_ms - 2000), (second, end_ms - 1)];
        stats.lists.ephemerals = vec![(first, vec!["/a/e2".into(), "/a/e1".into()])];
        stats.lists.sessionless = vec![(([127, 0, 0, 1], 39396).into(), 1_795_548_576_500)];
        stats.lists.expiry_step_ms = 2000;
        // ZooKeeper times connections apart from sessions, here they end together.
        let captured = captured!("dump").replace("19:29:58", "19:29:54");
        assert_eq!(ask("dump", &stats), captured);
        (stats.lists.digest, stats.zxid) = (Some(u128::MAX), 0x1a);
        assert_eq!(ask("hash", &stats), "1a: -1\n");
    }

    #[test]
    fn stat_is_srvr_with_clients() {
        let mut stats = stats();
        stats.connections = [(39282, true, (4, 4)), (39316, false, (1, 0)), (39296, true, (4, 4))]
            .map(|(port, reading, packets)| connection(port, reading, packets, None))
            .into();
        (stats.packets_received, stats.packets_sent) = (14, 13);
        assert_eq!(ask("stat", &stats), captured!("stat"));
    }

    #[test]
    fn every_metric_of_ours_is_one_of_zookeepers_with_its_value() {
        let mut stats = stats();
        (stats.packets_received, stats.packets_sent) = (18, 17);
        let captured = captured!("mntr");
        let theirs: Vec<&str> = captured.lines().collect();
        let ours = ask("mntr", &stats);
        for line in ours.lines().filter(|line| !line.starts_with(OWN_PREFIX)) {
            assert!(theirs.contains(&line), "{line}");
        }
        assert_eq!(captured.find(OWN_PREFIX), None, "that prefix is ours");
        assert_eq!(ours.lines().take(2).collect::<Vec<_>>(), theirs[..2]);
    }

    #[test]
    fn the_keys_of_mntr_are_always_the_same() {
        let keys = |stats: &ServerStats| -> Vec<String> {
            ask("mntr", stats).lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
        };
        let mut other = stats();
        (other.mode, other.settings, other.host) = (Mode::Leader, Settings::default(), Host::default());
        (other.traffic, other.latency, other.watch_count) = (Traffic::default(), Latency::default(), 0);
        other.limits.watches_refused = 7;
        assert_eq!(keys(&stats()), keys(&other));
    }

    #[test]
    fn the_environment_has_the_names_of_a_real_server() {
        let captured = captured!("envi");
        let names: Vec<&str> = captured.lines().map(|line| line.split('=').next().unwrap()).collect();
        let ours = ask("envi", &stats());
        assert!(ours.lines().all(|line| names.contains(&line.split('=').next().unwrap())), "{ours}");
        assert!(ours.starts_with(&format!("Environment:\nzookeeper.version={VERSION}\n")));
    }

    #[test]
    fn averages_are_written_as_java_does() {
        let average = |sum_ms, count| average(Latency { min_ms: 0, max_ms: 0, sum_ms, count });
        assert_eq!([average(0, 0), average(0, 7), average(4, 3), average(5, 2), average(20, 2)], ["0.0", "0.0", "1.3333", "2.5", "10.0"]);
    }

    #[test]
    fn latencies_of_cores_add_up() {
        let mut all = Latency::default();
        all.merge(Latency { min_ms: 2, max_ms: 4, sum_ms: 6, count: 2 });
        all.merge(Latency::default());
        all.merge(Latency { min_ms: 1, max_ms: 1, sum_ms: 1, count: 1 });
        assert_eq!(all, Latency { min_ms: 1, max_ms: 4, sum_ms: 7, count: 3 });
    }

    #[test]
    fn a_server_that_does_not_serve_says_so() {
        let mut stats = stats();
        stats.serving = false;
        assert_eq!((ask("ruok", &stats).as_str(), ask("isro", &stats).as_str()), ("imok", "null"));
        assert_eq!(ask("mntr", &stats), "This ZooKeeper instance is not currently serving requests\n");
        stats.serving = true;
        stats.mode = Mode::ReadOnly;
        assert_eq!(ask("isro", &stats), "ro");
        assert!(ask("srvr", &stats).contains("UTC\nREAD-ONLY mode; serving only read-only clients\nLatency"));
    }

    #[test]
    fn addresses_are_written_as_java_does() {
        for (ours, theirs) in [
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "[0:0:0:0:0:0:0:1]"),
            ("::ffff:10.0.0.7", "10.0.0.7"),
            ("fe80::a0b", "[fe80:0:0:0:0:0:0:a0b]"),
        ] {
            assert_eq!(java_address(ours.parse().unwrap()), theirs);
        }
    }

    #[test]
    fn words_and_whitelists() {
        assert_eq!((argument_bytes(*b"stmk"), argument_bytes(*b"ruok")), (Some(8), Some(0)));
        for other in [*b"abcd", [0, 0, 0, 45], [0xff, 0xf4, 0xff, 0xfd]] {
            assert_eq!(argument_bytes(other), None);
        }
        let list = Whitelist::parse(" stat, ruok ,dump,").unwrap();
        assert_eq!(list.to_string(), "dump, ruok, stat");
        assert!(list.allows(*b"stat") && list.allows(*b"dump") && !list.allows(*b"srvr"));
        assert!(Whitelist::parse("*").unwrap().allows(*b"cons") && Whitelist::All.allows(*b"hash"));
        assert_eq!((Whitelist::parse("stats"), Whitelist::parse("")), (None, Some(Whitelist::Some(0))));
    }
}
