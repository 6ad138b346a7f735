//! Settings, from files as users write them to the one struct, and every way to get them wrong.
//! `UPDATE=1 cargo test --test config` rewrites the table in docs/operating.md.

use falconer::config::{Config, ConfigError, Flag, Loaded, Pinning, Pipeline, SETTINGS, Sources, load, settings_table};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn write(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn load_text(name: &str, text: &str) -> Result<Loaded, ConfigError> {
    let dir = TempDir::new().unwrap();
    load(&Sources { file: Some(write(&dir, name, text)), ..Sources::default() })
}

/// The error's one line, with the directory cut off.
fn error(name: &str, text: &str) -> String {
    let line = load_text(name, text).expect_err(text).to_string();
    assert!(!line.contains('\n'), "one line: {line:?}");
    line.split_once(name).map_or(line.clone(), |(_, rest)| format!("{name}{rest}"))
}

fn zoo(text: &str) -> Config {
    load_text("zoo.cfg", text).unwrap().config
}

#[test]
fn without_a_file() {
    let config = Config::default();
    assert_eq!(config.client_address().to_string(), "127.0.0.1:2181");
    assert_eq!((config.data.dir.as_path(), config.data.log_dir.as_path()), (Path::new("./falconer-data"), Path::new("./falconer-data")));
    assert_eq!((config.session.timeout_ms_min, config.session.timeout_ms_max), (4000, 40_000));
    assert!(config.features.extended_types && !config.client.limit_loopback);
    assert_eq!((config.threads.shards, config.admin.four_letter_words.to_string()), (None, "srvr".into()));
}

#[test]
fn a_zoo_cfg_has_the_defaults_of_zookeeper() {
    let config = zoo("dataDir=/var/zk\nclientPort=2181\n");
    assert_eq!(config.client_address().to_string(), "0.0.0.0:2181");
    assert_eq!((config.client.connections_per_address_max, config.client.limit_loopback), (60, true));
    assert_eq!((config.session.tick_time_ms, config.session.timeout_ms_min, config.session.timeout_ms_max), (3000, 6000, 60_000));
    assert!(!config.features.extended_types);
    assert_eq!((config.client.requests_outstanding_max, config.client.frame_bytes_max), (1000, 0xfffff));
}

/// Every key that has an effect, as it stands and with the prefix.
#[test]
fn all_keys_of_a_zoo_cfg_with_and_without_prefix() {
    let lines = [
        "tickTime=100",
        "dataDir=/d",
        "dataLogDir=/l",
        "clientPort=2185",
        "clientPortAddress=127.0.0.2",
        "clientPortListenBacklog=77",
        "maxClientCnxns=5",
        "maxCnxns=6",
        "minSessionTimeout=300",
        "maxSessionTimeout=900",
        "snapCount=10",
        "snapSizeLimitInKb=11",
        "globalOutstandingLimit=12",
        "autopurge.snapRetainCount=13",
        "initLimit=17",
        "syncLimit=18",
        "quorumListenOnAllIPs=true",
        "peerSecretFile=/s",
        "jute.maxbuffer=0x200000",
        "extendedTypesEnabled=true",
        "enforceQuota=true",
        "skipACL=yes",
        "reconfigEnabled=true",
        "znode.container.checkIntervalMs=14",
        "znode.container.maxPerMinute=15",
        "znode.container.maxNeverUsedIntervalMs=16",
        "DigestAuthenticationProvider.superDigest=super:xyz=",
        "DigestAuthenticationProvider.digestAlg=SHA1",
        "DigestAuthenticationProvider.enabled=true",
        "4lw.commands.whitelist=ruok, mntr",
        "nio.sessionlessCnxnTimeout=1700",
    ];
    let config = zoo(&lines.join("\n"));
    assert_eq!(zoo(&lines.map(|line| format!("zookeeper.{line}")).join("\n")), config);
    assert_eq!(lines.len(), SETTINGS.iter().filter(|s| !s.zoo.is_empty()).count(), "no key is left out here");
    assert_eq!(config.client_address().to_string(), "127.0.0.2:2185");
    assert_eq!((config.client.backlog, config.client.connections_per_address_max, config.client.connections_max), (77, 5, 6));
    assert_eq!((config.session.tick_time_ms, config.session.timeout_ms_min, config.session.timeout_ms_max), (100, 300, 900));
    assert_eq!((config.data.dir.as_path(), config.data.log_dir.as_path()), (Path::new("/d"), Path::new("/l")));
    assert_eq!((config.data.snapshot_txns, config.data.snapshot_log_kb, config.data.snapshots_retained), (10, 11, 13));
    assert_eq!((config.client.requests_outstanding_max, config.client.frame_bytes_max), (12, 2 << 20));
    assert_eq!(config.replication.peer_secret_file.as_deref(), Some(Path::new("/s")));
    assert_eq!((config.replication.init_limit_ticks, config.replication.sync_limit_ticks), (17, 18));
    assert!(config.replication.listen_on_all_addresses && config.ensemble.is_none());
    assert!(config.features.extended_types && config.features.enforce_quota && config.features.skip_acl && config.features.reconfig);
    let container = &config.container;
    assert_eq!((container.check_interval_ms, container.deletions_per_minute_max, container.never_used_ms), (14, 15, 16));
    assert_eq!(config.digest_auth.super_digest.as_deref(), Some("super:xyz="));
    assert_eq!(config.admin.four_letter_words.to_string(), "mntr, ruok");
    assert_eq!(config.limits.handshake_timeout_ms, 1700);
}

#[test]
fn limits_in_toml() {
    let text = "[limits]\nsessions_max = 5\nunparsed_bytes_max = 65_536\nacl_entries_max = 7\nwatches_per_shard_max = 9\n";
    let limits = load_text("f.toml", text).unwrap().config.limits;
    assert_eq!((limits.sessions_max, limits.unparsed_bytes_max, limits.acl_entries_max, limits.watches_per_shard_max), (5, 65_536, 7, 9));
    let refused = load_text("f.toml", "[limits]\nacl_bytes_max = 2_000_000\n").unwrap_err().to_string();
    assert!(refused.contains("allowed: 64 to 1048576"), "{refused}");
}

#[test]
fn the_sample_file_of_zookeeper_works_and_says_what_it_does_not_do() {
    let text = "# The number of milliseconds of each tick\ntickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir=/tmp/zookeeper\n\
                clientPort=2181\n#maxClientCnxns=60\nautopurge.purgeInterval=1\nmetricsProvider.httpPort=7000\n";
    let loaded = load_text("zoo.cfg", text).unwrap();
    assert_eq!((loaded.config.session.timeout_ms_min, loaded.config.session.timeout_ms_max), (4000, 40_000));
    assert_eq!(
        (loaded.config.ticks_ms(loaded.config.replication.init_limit_ticks), loaded.config.replication.sync_limit_ticks),
        (20_000, 5)
    );
    let told: Vec<&str> = loaded.warnings.iter().map(|w| w.split_once("zoo.cfg:").unwrap().1).collect();
    let want = [
        "8: autopurge.purgeInterval: no effect, old snapshots and log go whenever a new snapshot is complete",
        "9: metricsProvider.httpPort: no effect, there is no HTTP endpoint yet",
    ];
    assert_eq!(told, want);
}

#[test]
fn every_key_of_zookeeper_is_known() {
    for key in include_str!("zookeeper_keys.txt").split_whitespace() {
        let text = format!("dataDir=/d\nclientPort=1\n{key}=\n");
        match load_text("zoo.cfg", &text) {
            Ok(_) | Err(ConfigError::BadValue { .. }) => {}
            Err(other) => panic!("{key}: {other}"),
        }
    }
}

#[test]
fn mistakes_in_a_zoo_cfg() {
    let cases = [
        ("clientPort=2181\n", "zoo.cfg: dataDir is missing"),
        ("dataDir=/d\n\nclientport=2181\n", "zoo.cfg:3: unknown key \"clientport\", did you mean \"clientPort\"?"),
        ("dataDir=/d\nfrobnicate=1\n", "zoo.cfg:2: unknown key \"frobnicate\""),
        ("dataDir=/d\nzookeeper.maxClientCnxn=1\n", "zoo.cfg:2: unknown key \"zookeeper.maxClientCnxn\", did you mean \"maxClientCnxns\"?"),
        ("dataDir=/d\nclientPort=21810000\n", "zoo.cfg:2: clientPort: bad value \"21810000\", allowed: 0 to 65535"),
        ("dataDir=/d\ntickTime=2s\n", "zoo.cfg:2: tickTime: bad value \"2s\", allowed: 1 to 600000"),
        ("dataDir=/d\nextendedTypesEnabled=maybe\n", "zoo.cfg:2: extendedTypesEnabled: bad value \"maybe\", allowed: true or false"),
        ("dataDir=\n", "zoo.cfg:1: dataDir: bad value \"\", allowed: a path"),
        ("dataDir=/d\njute.maxbuffer=99999999\n", "zoo.cfg:2: jute.maxbuffer: bad value \"99999999\", allowed: 1024 to 8388608"),
        ("dataDir=/d\nautopurge.snapRetainCount=1\n", "zoo.cfg:2: autopurge.snapRetainCount: bad value \"1\", allowed: 3 to 1000"),
        (
            "dataDir=/d\nDigestAuthenticationProvider.digestAlg=MD5\n",
            "zoo.cfg:2: DigestAuthenticationProvider.digestAlg: bad value \"MD5\", allowed: \"SHA1\"",
        ),
        (
            "dataDir=/d\nDigestAuthenticationProvider.superDigest=secret\n",
            "zoo.cfg:2: DigestAuthenticationProvider.superDigest: bad value \"(not shown)\", allowed: user:base64(hash(user:password))",
        ),
        ("dataDir=/d\nminSessionTimeout=\\\n  50000\nmaxSessionTimeout=40000\n", "zoo.cfg:2: session.timeout_ms_min = 50000 is above "),
        ("dataDir=/d\nsecureClientPort=2281\n", "zoo.cfg:2: secureClientPort without clientPort: there is no TLS yet"),
        ("dataDir=/d\nserver.1=a:1:2:observer\n", "zoo.cfg:2: the only server is an observer"),
        ("dataDir=/d\nserver.1=a\n", "zoo.cfg:2: server.1: bad value \"a\", allowed: server.ID = HOST:PORT:PORT"),
        ("dataDir=/d\nclientPort=1\nserver.1=a:1:2;3\n", "zoo.cfg:3: client port 3 contradicts clientPort 1"),
    ];
    for (text, want) in cases {
        let line = error("zoo.cfg", text);
        assert!(line.starts_with(want), "{line}\nwanted\n{want}");
    }
}

#[test]
fn one_listed_server_is_standalone() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().display();
    let text = format!("dataDir={data}\nserver.7=localhost:2888:3888:participant;127.0.0.1:2199\n");
    let sources = Sources { file: Some(write(&dir, "zoo.cfg", &text)), ..Sources::default() };
    let config = load(&sources).unwrap().config;
    assert_eq!((config.server.id, config.client_address().to_string().as_str()), (7, "127.0.0.1:2199"));
    write(&dir, "myid", "7\n");
    assert_eq!(load(&sources).unwrap().config.server.id, 7);
    write(&dir, "myid", "8\n");
    let line = load(&sources).unwrap_err().to_string();
    assert!(line.contains("zoo.cfg:2: server.7 is the only server, but") && line.ends_with("myid says 8"), "{line}");
    write(&dir, "myid", "eight\n");
    let line = load(&sources).unwrap_err().to_string();
    assert!(line.ends_with("myid:1: myid: bad value \"eight\", allowed: 0 to 254"), "{line}");
}

#[test]
fn toml_sections_and_types() {
    let text = "[client]\nport = 2_182\naddress = \"::1\"\n[threads]\npinning = \"0, 2-3\"\npipeline = \"dedicated\"\n\
                [session]\ntick_time_ms = 500\n[log]\nlevel = \"debug\"\n[admin]\nfour_letter_words = \"*\"\n";
    let config = load_text("falconer.toml", text).unwrap().config;
    assert_eq!(config.client_address().to_string(), "[::1]:2182");
    assert_eq!((config.threads.pinning, config.threads.pipeline), (Pinning::Cpus(vec![0, 2, 3]), Pipeline::Dedicated));
    assert_eq!((config.threads.shards, config.session.timeout_ms_max), (Some(2), 10_000));
    // The ending does not matter where the text tells.
    assert_eq!(load_text("falconer.conf", "# x\n  [client]\nport = 2182\n").unwrap().config.client.port, 2182);
}

#[test]
fn mistakes_in_toml() {
    let cases = [
        ("[client]\nport = \"2181\"\n", "f.toml:2: client.port: bad value \"2181\", allowed: 0 to 65535"),
        ("[client]\nport = 0x10\n", "f.toml:2: client.port: bad value \"0x10\", allowed: 0 to 65535"),
        ("[client]\nport = -1\n", "f.toml:2: client.port: bad value \"-1\", allowed: 0 to 65535"),
        ("[client]\n\nprot = 1\n", "f.toml:3: unknown key \"client.prot\", did you mean \"client.port\"?"),
        ("[server]\nport = 1\n", "f.toml:2: unknown key \"server.port\", did you mean \"client.port\"?"),
        ("[frob]\n", "f.toml:1: unknown key \"frob\""),
        ("port = 1\n", "f.toml:1: unknown key \"port\", did you mean \"client.port\"?"),
        ("[client]\nport = \n", "f.toml:2: "),
        ("[client]\nport = 1\nport = 2\n", "f.toml:3: "),
        ("[client.port]\nx = 1\n", "f.toml:1: client.port: bad value"),
        ("[features]\nskip_acl = \"yes\"\n", "f.toml:2: features.skip_acl: bad value \"yes\", allowed: true or false"),
        ("[threads]\npinning = \"3-1\"\n", "f.toml:2: threads.pinning: bad value \"3-1\", allowed: \"auto\", \"none\", or cores like"),
        ("[threads]\npinning = \"1\"\nshards = 2\n", "f.toml:2: threads.pinning lists 1 cores for 2 threads"),
        ("[threads]\nshards = 257\n", "f.toml:2: threads.shards: bad value \"257\", allowed: 0 to 256"),
        ("[log]\nlevel = \"loud\"\n", "f.toml:2: log.level: bad value \"loud\", allowed: off, error, warn, info, debug or trace"),
        (
            "[admin]\nfour_letter_words = \"stats\"\n",
            "f.toml:2: admin.four_letter_words: bad value \"stats\", allowed: \"*\", or words of conf",
        ),
    ];
    for (text, want) in cases {
        let line = error("f.toml", text);
        assert!(line.starts_with(want), "{line}\nwanted\n{want}");
    }
}

#[test]
fn unusable_files() {
    let missing = load(&Sources { file: Some("/nowhere/zoo.cfg".into()), ..Sources::default() }).unwrap_err().to_string();
    assert!(missing.starts_with("/nowhere/zoo.cfg: cannot be read: No such file"), "{missing}");
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("zoo.cfg");
    std::fs::write(&path, b"dataDir=/d\n\xff\n").unwrap();
    let line = load(&Sources { file: Some(path), ..Sources::default() }).unwrap_err().to_string();
    assert!(line.ends_with("zoo.cfg:2: not UTF-8 text"), "{line}");
    let line = load(&Sources { profile: Some("fast".into()), ..Sources::default() }).unwrap_err().to_string();
    assert_eq!(line, "--profile: \"fast\" is neither a profile (default, throughput, latency, small, paranoid) nor a file");
}

#[test]
fn later_layers_win() {
    let dir = TempDir::new().unwrap();
    let profile = write(&dir, "mine.toml", "[client]\nport = 1\nbacklog = 2\nconnections_max = 3\n");
    let file = write(&dir, "f.toml", "[client]\nport = 4\nbacklog = 5\n");
    let flags = vec![Flag { name: "--client-port", key: "client.port", value: "6".into() }];
    let config = load(&Sources { profile: Some(profile.to_str().unwrap().into()), file: Some(file), flags }).unwrap().config;
    assert_eq!((config.client.port, config.client.backlog, config.client.connections_max), (6, 5, 3));
    let flags = vec![Flag { name: "--shards", key: "threads.shards", value: "999".into() }];
    let line = load(&Sources { flags, ..Sources::default() }).unwrap_err().to_string();
    assert_eq!(line, "--shards: threads.shards: bad value \"999\", allowed: 0 to 256");
}

#[test]
fn profiles_load_and_default_changes_nothing() {
    let with = |name: &str| load(&Sources { profile: Some(name.into()), ..Sources::default() }).unwrap().config;
    assert_eq!(with("default"), Config::default());
    assert_eq!((with("small").threads.shards, with("small").threads.pinning), (Some(1), Pinning::None));
    for name in ["throughput", "latency", "small", "paranoid"] {
        assert_ne!(with(name), Config::default(), "{name}");
    }
}

#[test]
fn what_check_prints_loads_again() {
    let text = "dataDir=/a b\\\\\"c\nclientPort=1\nskipACL=yes\nDigestAuthenticationProvider.superDigest=super:hunter2\n";
    let config = zoo(text);
    let printed = config.to_toml();
    assert!(printed.contains("# super_digest is set\n") && !printed.contains("hunter2") && !format!("{config:?}").contains("hunter2"));
    let mut again = load_text("again.toml", &printed).unwrap().config;
    again.digest_auth.super_digest = config.digest_auth.super_digest.clone();
    assert_eq!(again, config);
    assert_eq!(load_text("again.toml", &Config::default().to_toml()).unwrap().config, Config::default());
}

#[test]
fn the_table_in_the_docs_is_this_one() {
    const START: &str = "<!-- settings: written by a test -->\n";
    const END: &str = "<!-- end of settings -->\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operating.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (head, rest) = page.split_once(START).expect("the start mark");
    let (table, tail) = rest.split_once(END).expect("the end mark");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, format!("{head}{START}{}{END}{tail}", settings_table())).unwrap();
    } else {
        assert_eq!(table, settings_table(), "UPDATE=1 cargo test --test config rewrites it");
    }
}

/// The table of limits names every setting of a limit and every figure that counts how often one was met.
#[test]
fn every_limit_is_in_the_table_of_limits() {
    let page = include_str!("../docs/operating.md");
    let table = page.split("\n## Limits\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section for limits");
    let keys =
        SETTINGS.iter().map(|s| s.key).filter(|key| key.starts_with("limits.") || key.starts_with("client.") && key.ends_with("_max"));
    let missing: Vec<&str> = keys.filter(|key| !table.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let figures =
        include_str!("../src/admin/fourletter.rs").lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split_once("\", limits."));
    let names: Vec<String> = figures.map(|(name, _)| format!("`zk_falconer_{name}`")).collect();
    assert_eq!((names.len(), names.iter().find(|name| !table.contains(*name))), (11, None));
}

proptest! {
    /// Whatever stands in a file, the answer is settings or one line.
    #[test]
    fn no_text_panics(text in any_text(), toml in any::<bool>()) {
        if let Err(error) = load_text(if toml { "f.toml" } else { "zoo.cfg" }, &text) {
            prop_assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}

/// Noise, and noise where keys and values belong. No host names: looking them up is not what this is about.
fn any_text() -> impl Strategy<Value = String> {
    let keys: Vec<&str> = SETTINGS.iter().flat_map(|s| [s.key, s.zoo]).filter(|k| !k.to_lowercase().contains("address")).collect();
    let key = prop_oneof![prop::sample::select(keys).prop_map(str::to_owned), "server\\.[0-9]{1,3}", "\\PC{0,8}"];
    let value = prop_oneof!["-?[0-9]{1,25}", "[a-z:;0-9]{0,20}", "\\PC{0,12}", "\"\\PC{0,6}\"", "[0-9,-]{0,9}"];
    let line = (key, prop_oneof![Just("="), Just(" = "), Just(":"), Just(" ")], value).prop_map(|(k, s, v)| format!("{k}{s}{v}"));
    let line = prop_oneof![4 => line, 1 => "\\[[a-z.]{0,9}\\]", 1 => "(?s).{0,20}"];
    prop::collection::vec(line, 0..8).prop_map(|lines| lines.join("\n"))
}
