//! Ensembles as their files describe them: zoo.cfg with or without a dynamic file, TOML, and every mistake in them.

use falconer::config::{ConfigError, EnsembleConfig, Flag, Loaded, Sources, load};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;

/// A directory with a `myid`, from which files are loaded.
struct Place(TempDir);

impl Place {
    fn with_id(id: &str) -> Place {
        let place = Place(TempDir::new().unwrap());
        place.write("myid", id);
        place
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A file with a secret, readable as `mode` says.
    fn secret(&self, text: &str, mode: u32) -> String {
        let path = self.write("peer.secret", text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    }

    fn load(&self, file: PathBuf) -> Result<Loaded, ConfigError> {
        load(&Sources { file: Some(file), ..Sources::default() })
    }

    fn zoo(&self, text: &str) -> Result<Loaded, ConfigError> {
        self.load(self.write("zoo.cfg", &format!("dataDir={}\n{text}", self.0.path().display())))
    }

    fn toml(&self, text: &str) -> Result<Loaded, ConfigError> {
        self.load(self.write("f.toml", &format!("data.dir = {:?}\n{text}", self.0.path())))
    }

    /// The error without the names of directories.
    fn line(&self, error: ConfigError) -> String {
        let line = error.to_string();
        assert!(!line.contains('\n'), "one line: {line:?}");
        line.replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn ensemble(loaded: &Loaded) -> &EnsembleConfig {
    loaded.config.ensemble.as_ref().expect("an ensemble")
}

fn lines(loaded: &Loaded) -> Vec<String> {
    ensemble(loaded).servers.iter().map(|server| server.to_string()).collect()
}

const SECRET: &str = "Zm91cnRlZW4gY2F0cyBhbmQgYSBkb2cgb24gdGhlIHJvb2YK\n";
const THREE: &str = "server.1=127.0.0.1:2888:3888\nserver.2=localhost:2889:3889\nserver.3=[::1]:2890:3890\n";

#[test]
fn three_servers_on_this_machine() {
    let place = Place::with_id("2\n");
    let loaded = place.zoo(&format!("clientPort=2182\ninitLimit=10\nsyncLimit=5\n{THREE}")).unwrap();
    let all =
        ["server.1=127.0.0.1:2888:3888:participant", "server.2=localhost:2889:3889:participant", "server.3=[::1]:2890:3890:participant"];
    assert_eq!(lines(&loaded), all);
    let ensemble = ensemble(&loaded);
    assert_eq!((ensemble.own().id, loaded.config.server.id, ensemble.listen_host()), (2, 2, "localhost"));
    assert_eq!(ensemble.peers().map(|peer| peer.id).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(ensemble.servers[2].host, "::1");
    assert!(ensemble.secret.is_none() && ensemble.servers.iter().all(|s| (s.weight, s.group, s.observer) == (1, 0, false)));
    let told = loaded.warnings.iter().filter(|w| w.contains("for elections, is not used")).count();
    assert_eq!((told, loaded.warnings.len()), (1, 1), "{:?}", loaded.warnings);
}

#[test]
fn roles_client_ports_and_several_addresses() {
    let place = Place::with_id("3");
    let text = "server.1=127.0.0.1:1:2:participant;2181\nserver.2=127.0.0.1:2:2:PARTICIPANT;localhost:2182;2282\n\
                server.3=127.0.0.1:3:3:observer|127.0.0.2:3:3:observer;127.0.0.9:2183\npeerType=participant\n";
    let loaded = place.zoo(text).unwrap();
    assert_eq!(loaded.config.client_address().to_string(), "127.0.0.9:2183");
    let want = [
        "server.1=127.0.0.1:1:2:participant;0.0.0.0:2181",
        "server.2=127.0.0.1:2:1002:participant;localhost:2182",
        "server.3=127.0.0.1:3:1003:observer;127.0.0.9:2183",
    ];
    assert_eq!(lines(&loaded), want);
    for said in ["server.3: its first address is used", "peerType is not what the list says of server 3", "two servers vote"] {
        assert!(loaded.warnings.iter().any(|w| w.contains(said)), "{said}: {:?}", loaded.warnings);
    }
    // A flag wins over the list, another line of the file contradicts it.
    let flags = vec![Flag { name: "--client-port", key: "client.port", value: "7".into() }];
    let file = Some(place.0.path().join("zoo.cfg"));
    let config = load(&Sources { file, flags, ..Sources::default() }).unwrap().config;
    assert_eq!(config.client_address().to_string(), "127.0.0.9:7");
    let line = place.line(place.zoo(&format!("clientPort=9\n{text}")).unwrap_err());
    assert_eq!(line, "zoo.cfg:5: client port 2183 contradicts clientPort 9");
}

#[test]
fn groups_and_weights() {
    let place = Place::with_id("1");
    let servers: String = (1..=7).map(|n| format!("server.{n}=127.0.0.1:{n}:9{}\n", if n == 7 { ":observer" } else { "" })).collect();
    let loaded = place.zoo(&format!("group.1=1:2\ngroup.5=3:4\ngroup.9=5:6\nweight.2=0\nweight.3=7\n{servers}")).unwrap();
    let shape: Vec<_> = ensemble(&loaded).servers.iter().map(|s| (s.group, s.weight)).collect();
    assert_eq!(shape, [(1, 1), (1, 0), (5, 7), (5, 1), (9, 1), (9, 1), (0, 1)]);
    // Weights alone are fine: everybody is in one group then.
    let loaded = place.zoo(&format!("weight.1=3\n{servers}")).unwrap();
    assert_eq!(ensemble(&loaded).servers[0].weight, 3);
}

#[test]
fn a_dynamic_file_has_the_servers() {
    let place = Place::with_id("1");
    let dynamic = place.write("zoo.cfg.dynamic.100000000", THREE);
    let text = format!("standaloneEnabled=false\nreconfigEnabled=true\ndynamicConfigFile={}\n", dynamic.display());
    assert_eq!(ensemble(&place.zoo(&text).unwrap()).servers.len(), 3);
    place.write("zoo.cfg.dynamic.100000000", &format!("{THREE}clientPort=3\n"));
    let line = place.line(place.zoo(&text).unwrap_err());
    assert!(line.starts_with("zoo.cfg.dynamic.100000000:4: \"clientPort\" does not belong here"), "{line}");
    let line = place.line(place.zoo(&format!("{text}server.4=a:1:2\n")).unwrap_err());
    assert!(line.starts_with("zoo.cfg:5: server.4 must stand in the dynamicConfigFile"), "{line}");
    let line = place.line(place.zoo("dynamicConfigFile=/nowhere/x\n").unwrap_err());
    assert!(line.starts_with("/nowhere/x: cannot be read: No such file"), "{line}");
}

#[test]
fn mistakes_in_a_zoo_cfg() {
    let cases = [
        ("server.1=localhost:1:2\nserver.9=localhost:2:2\n", "zoo.cfg:2: myid says that this is server 5, but the servers are 1, 9"),
        ("server.5=localhost:1:2\nserver.0=localhost:2:2\n", "zoo.cfg:3: server 0: in an ensemble servers have numbers from 1 to 254"),
        ("server.5=localhost:1:2\nserver.5=localhost:2:2\n", "zoo.cfg:3: server 5 is listed twice, first at zoo.cfg:2"),
        ("server.5=localhost:1:2\nserver.6=LOCALHOST:1:3\n", "zoo.cfg:3: server 6 has the address LOCALHOST:1 of server 5"),
        ("server.5=localhost:1:2:observer\nserver.6=localhost:2:2:observer\n", "zoo.cfg:2: all servers are observers, nobody votes"),
        ("server.5=localhost:1:2\nserver.6=localhost:2:2\ngroup.1=5\n", "zoo.cfg:3: server 6 is in no group, but others are"),
        ("server.5=localhost:1:2\nserver.6=localhost:2:2\ngroup.1=5:6:7\n", "zoo.cfg:4: there is no server.7"),
        ("group.1=5\ngroup.2=6:5\n", "zoo.cfg:3: server 5 is in a group already, at zoo.cfg:2"),
        ("group.1=5,6\n", "zoo.cfg:2: group.1: bad value \"5,6\", allowed: group.N = ID:ID:..., each server in one group"),
        ("weight.5=-1\n", "zoo.cfg:2: weight.5: bad value \"-1\", allowed: weight.ID = 0 to 4294967295"),
        (
            "server.5=localhost:1:2\nserver.6=localhost:2:2\nweight.5=0\nweight.6=0\n",
            "zoo.cfg:2: all servers that vote have weight 0: no vote would ever count",
        ),
        (
            "server.5=localhost:1\nserver.6=localhost:2:2\n",
            "zoo.cfg:2: server.5: bad value \"localhost:1\", allowed: server.ID = HOST:PORT:PORT",
        ),
        ("peerType=leader\n", "zoo.cfg:2: peerType: bad value \"leader\", allowed: participant or observer"),
        ("server.5=localhost:1:2\nserver.6=localhost:2:2\nsslQuorum=true\n", "zoo.cfg:4: sslQuorum: there is no TLS between servers yet"),
    ];
    let place = Place::with_id("5");
    for (text, want) in cases {
        let line = place.line(place.zoo(text).expect_err(text));
        assert!(line.starts_with(want), "{line}\nwanted\n{want}");
    }
    std::fs::remove_file(place.0.path().join("myid")).unwrap();
    let line = place.line(place.zoo(THREE).unwrap_err());
    assert_eq!(line, "zoo.cfg:2: which of these 3 servers is this? Write its number into myid, or give --id");
}

#[test]
fn servers_that_others_can_reach_need_a_secret() {
    let place = Place::with_id("1");
    let far = "server.1=127.0.0.1:1:2\nserver.2=10.0.0.2:1:2\nserver.3=zk3.example.com:1:2\n";
    let line = place.line(place.zoo(far).unwrap_err());
    assert!(line.starts_with("zoo.cfg:3: server 2 is at 10.0.0.2, not on loopback, and there is no peerSecretFile"), "{line}");
    assert!(line.contains("head -c 32 /dev/urandom | base64 > FILE"), "{line}");
    let line = place.line(place.zoo(&format!("quorumListenOnAllIPs=true\n{THREE}")).unwrap_err());
    assert!(line.starts_with("zoo.cfg:3: server 1 listens on all addresses, and there is no peerSecretFile"), "{line}");

    let with = |text: &str, mode| place.zoo(&format!("peerSecretFile={}\n{far}", place.secret(text, mode)));
    let loaded = with(SECRET, 0o600).unwrap();
    let secret = ensemble(&loaded).secret.as_ref().unwrap();
    assert_eq!(secret.bytes(), SECRET.trim_end().as_bytes());
    assert!(!format!("{:?} {}", loaded.config, loaded.config.to_toml()).contains("Zm91"), "it is never shown");
    assert!(with(SECRET, 0o640).is_ok(), "a group may share it");
    let line = place.line(with(SECRET, 0o604).unwrap_err());
    assert_eq!(line, "zoo.cfg:2: the secret of the ensemble, peer.secret, can be read or changed by everybody: `chmod o= peer.secret`");
    let line = place.line(with("0123456789012345678901234567890\n", 0o600).unwrap_err());
    assert!(line.starts_with("zoo.cfg:2: the secret of the ensemble, peer.secret, has 31 bytes, at least 32 are needed"), "{line}");
    let line = place.line(place.zoo(&format!("peerSecretFile=/nowhere/s\n{far}")).unwrap_err());
    assert!(line.starts_with("/nowhere/s: cannot be read: No such file"), "{line}");
    let loaded = place.zoo(&format!("quorumListenOnAllIPs=true\npeerSecretFile={}\n{THREE}", place.secret(SECRET, 0o600))).unwrap();
    assert_eq!(ensemble(&loaded).listen_host(), "0.0.0.0");
}

#[test]
fn servers_in_toml() {
    let place = Place::with_id("4");
    let text = "[client]\nport = 5\n[replication]\nelection_timeout_ms = 900\nheartbeat_ms = 300\nleaderless_ms = 1800\nlinearizable_reads = true\n\
                [[ensemble.servers]]\nid = 4\nhost = \"localhost\"\nweight = 2\ngroup = 1\n\
                [[ensemble.servers]]\nid = 2\nhost = \"::1\"\npeer_port = 2_889\nobserver = true\nclient_address = \"localhost\"\nclient_port = 1\n";
    let loaded = place.toml(text).unwrap();
    let config = &loaded.config;
    assert_eq!(lines(&loaded), ["server.2=[::1]:2889:3889:observer;localhost:1", "server.4=localhost:2888:3888:participant"]);
    assert_eq!((ensemble(&loaded).own().id, ensemble(&loaded).own().weight, ensemble(&loaded).own().group), (4, 2, 1));
    assert_eq!((config.replication.election_timeout_ms, config.replication.heartbeat_ms, config.client.port), (900, 300, 5));
    assert!(config.replication.linearizable_reads);
    let again = place.load(place.write("again.toml", &config.to_toml())).unwrap().config;
    assert_eq!(&again, config, "what --check prints loads again");
    let one = place.toml("[[ensemble.servers]]\nid = 4\nhost = \"zk.example.com\"\nclient_port = 7\n").unwrap().config;
    assert_eq!((one.ensemble, one.server.id, one.client.port), (None, 4, 7), "one server is no ensemble");
}

#[test]
fn mistakes_in_toml() {
    let server = "[[ensemble.servers]]\nid = 1\nhost = \"localhost\"\n";
    let cases = [
        ("[ensemble]\nservers = 3\n".to_owned(), "f.toml:3: ensemble.servers: servers are listed as [[ensemble.servers]]"),
        ("[ensemble]\nservers = [3]\n".into(), "f.toml:3: ensemble.servers: servers are listed as [[ensemble.servers]]"),
        ("[[ensemble.server]]\nid = 1\n".into(), "f.toml:2: unknown key \"ensemble.server\", did you mean \"ensemble.servers\"?"),
        ("[[ensemble]]\nid = 1\n".into(), "f.toml:2: ensemble: servers are listed as [[ensemble.servers]]"),
        ("[[ensemble.servers]]\nhost = \"a\"\n".into(), "f.toml:2: ensemble.servers: id is missing"),
        (format!("{server}[[ensemble.servers]]\nid = 2\n"), "f.toml:5: ensemble.servers: host is missing"),
        (format!("{server}peer_prot = 1\n"), "f.toml:5: unknown key \"ensemble.servers.peer_prot\", did you mean \"peer_port\"?"),
        (format!("{server}peer_port = 0\n"), "f.toml:5: ensemble.servers.peer_port: bad value \"0\", allowed: 1 to 65535"),
        (format!("{server}observer = 1\n"), "f.toml:5: ensemble.servers.observer: bad value \"1\", allowed: true or false"),
        ("[[ensemble.servers]]\nid = 0\n".into(), "f.toml:3: ensemble.servers.id: bad value \"0\", allowed: 1 to 254"),
        ("[[ensemble.servers]]\nhost = \"a:2888\"\nid = \"1\"\n".into(), "f.toml:4: ensemble.servers.id: bad value \"1\""),
        (
            "[[ensemble.servers]]\nhost = \"[::1]\"\n".into(),
            "f.toml:3: ensemble.servers.host: bad value \"[::1]\", allowed: a name or an address",
        ),
        (format!("{server}client_address = \"a\"\n"), "f.toml:2: ensemble.servers: client_port, to go with client_address, is missing"),
        ("[replication]\nheartbeat_ms = 101\n".into(), "f.toml:3: replication.heartbeat_ms = 101 must be at most a third of"),
        (
            "[replication]\nelection_timeout_ms = 3000\n".into(),
            "replication.leaderless_ms (by default) = 4000 must be at least twice f.toml:3:",
        ),
        (
            "[replication]\nelection_timeout_ms = 99\n".into(),
            "f.toml:3: replication.election_timeout_ms: bad value \"99\", allowed: 100 to",
        ),
    ];
    let place = Place::with_id("1");
    for (text, want) in cases {
        let line = place.line(place.toml(&text).expect_err(&text));
        assert!(line.starts_with(want), "{line}\nwanted\n{want}");
    }
}

#[test]
fn what_is_probably_not_meant_is_said() {
    let place = Place::with_id("1");
    let told = |voters: usize, more: &str| {
        let servers: String = (1..=voters).map(|n| format!("server.{n}=localhost:{n}:1\n")).collect();
        place.zoo(&format!("{servers}{more}")).unwrap().warnings.into_iter().skip(1).collect::<Vec<_>>()
    };
    assert_eq!(told(3, ""), Vec::<String>::new());
    assert_eq!(told(4, ""), ["4 servers vote, which tolerates no more failures than 3"]);
    assert_eq!(told(9, ""), ["9 servers vote: more than 7 slow every write down; others can be observers"]);
    assert!(told(2, "")[0].starts_with("two servers vote: nothing can be written while one of them is down"));
    assert!(told(1, "server.9=localhost:9:1:observer\n")[0].starts_with("one server votes"));
    assert!(told(6, "group.1=1:2:3\ngroup.2=4:5:6\n")[0].starts_with("there are two groups with votes"));
}
