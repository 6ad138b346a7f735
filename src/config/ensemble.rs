//! The servers of an ensemble: what every one of them must know of the others, and what must hold between them.
//! Refuses to look anything up: a name is resolved when somebody connects to it.

use super::error::{ConfigError, Place};
use super::secret::Secret;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

/// The numbers that a member of an ensemble can have. 0 is a server that was never given one.
const IDS: std::ops::RangeInclusive<u16> = 1..=254;
/// More voters than this make every write wait for more disks, and hardly anybody has so many failures at once.
const VOTERS_SENSIBLE: usize = 7;

/// An ensemble of more than one server, and which of them this is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnsembleConfig {
    /// By id, no id and no address twice. At least one voter has weight.
    pub servers: Vec<ServerConfig>,
    /// What servers prove with that they belong here; always there unless all of them are on loopback addresses.
    pub secret: Option<Secret>,
    own: usize,
    listen_everywhere: bool,
}

/// One server of an ensemble.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerConfig {
    pub id: u16,
    /// Where the others find it: a name or an address, IPv6 without brackets.
    pub host: String,
    /// The port for other servers; everything between two servers goes over one connection.
    pub peer_port: u16,
    /// Another one, which is not used. ZooKeeper's clients refuse a list of servers where it is the same.
    pub election_port: u16,
    /// Where its clients connect, if the list says so.
    pub client_address: Option<String>,
    pub client_port: Option<u16>,
    /// Follows without a vote.
    pub observer: bool,
    /// What its vote counts.
    pub weight: u64,
    pub group: u64,
}

impl EnsembleConfig {
    /// This server.
    pub fn own(&self) -> &ServerConfig {
        &self.servers[self.own]
    }

    /// All but this one.
    pub fn peers(&self) -> impl Iterator<Item = &ServerConfig> {
        let own = self.own().id;
        self.servers.iter().filter(move |server| server.id != own)
    }

    /// All servers as ZooKeeper writes them into `/zookeeper/config`. The list never changes while they run: version 0.
    pub fn membership(&self) -> String {
        let lines: String = self.servers.iter().map(|server| format!("{server}\n")).collect();
        lines + "version=0"
    }

    /// Where this server listens for the others, a name or an address.
    pub fn listen_host(&self) -> &str {
        if self.listen_everywhere { "0.0.0.0" } else { &self.own().host }
    }
}

impl ServerConfig {
    /// A voter with nothing special about it.
    pub(super) fn new(id: u16, host: String, peer_port: u16) -> ServerConfig {
        // As 3888 goes with 2888.
        let election_port = peer_port.checked_add(1000).unwrap_or_else(|| peer_port - 1000);
        ServerConfig { id, host, peer_port, election_port, client_address: None, client_port: None, observer: false, weight: 1, group: 0 }
    }

    /// Whether only processes of this machine can reach it. A name other than localhost may lead anywhere.
    fn on_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost") || self.host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

/// As ZooKeeper writes it: `server.1=host:2888:3888:participant;0.0.0.0:2181`.
impl fmt::Display for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bracketed = |host: &str| if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let (host, port, election) = (bracketed(&self.host), self.peer_port, self.election_port);
        let role = if self.observer { "observer" } else { "participant" };
        write!(f, "server.{}={host}:{port}:{election}:{role}", self.id)?;
        match (&self.client_address, self.client_port) {
            (Some(address), Some(client)) => write!(f, ";{}:{client}", bracketed(address)),
            (None, Some(client)) => write!(f, ";0.0.0.0:{client}"),
            (_, None) => Ok(()),
        }
    }
}

/// A server as it was listed.
#[derive(Debug)]
pub(super) struct Listed {
    pub place: Place,
    pub server: ServerConfig,
    /// The group it was put into, if any.
    pub group: Option<u64>,
}

/// Which of the listed servers this is, where `own_id` was said at `said_at`.
pub(super) fn find_own(listed: &[Listed], own_id: u16, said_at: &str) -> Result<usize, ConfigError> {
    listed.iter().position(|l| l.server.id == own_id).ok_or_else(|| {
        let ids: Vec<String> = listed.iter().map(|l| l.server.id.to_string()).collect();
        let place = listed[0].place.clone();
        ConfigError::Refused { place, what: format!("{said_at} says that this is server {own_id}, but the servers are {}", ids.join(", ")) }
    })
}

/// Checks the list and puts it in order. There are at least two servers.
pub(super) fn settle(
    mut listed: Vec<Listed>,
    own_id: u16,
    listen_everywhere: bool,
    secret: Option<Secret>,
) -> Result<EnsembleConfig, ConfigError> {
    check_unique(&listed)?;
    check_votes(&listed)?;
    if secret.is_none() {
        check_loopback(&listed, listen_everywhere)?;
    }
    listed.sort_by_key(|l| l.server.id);
    let servers: Vec<ServerConfig> = listed.into_iter().map(|l| ServerConfig { group: l.group.unwrap_or(0), ..l.server }).collect();
    let own = servers.iter().position(|server| server.id == own_id).expect("find_own came first");
    Ok(EnsembleConfig { servers, secret, own, listen_everywhere })
}

fn check_unique(listed: &[Listed]) -> Result<(), ConfigError> {
    let refuse = |l: &Listed, what: String| Err(ConfigError::Refused { place: l.place.clone(), what });
    for (index, l) in listed.iter().enumerate() {
        let ServerConfig { id, host, peer_port, .. } = &l.server;
        if !IDS.contains(id) {
            return refuse(l, format!("server {id}: in an ensemble servers have numbers from {} to {}", IDS.start(), IDS.end()));
        }
        for before in &listed[..index] {
            if before.server.id == *id {
                return refuse(l, format!("server {id} is listed twice, first at {}", before.place));
            }
            if before.server.host.eq_ignore_ascii_case(host) && before.server.peer_port == *peer_port {
                return refuse(l, format!("server {id} has the address {host}:{peer_port} of server {}", before.server.id));
            }
        }
    }
    Ok(())
}

/// Every voter counts in exactly one way, and some vote does.
fn check_votes(listed: &[Listed]) -> Result<(), ConfigError> {
    let voters = || listed.iter().filter(|l| !l.server.observer);
    let place = || listed[0].place.clone();
    if voters().next().is_none() {
        return Err(ConfigError::Refused { place: place(), what: "all servers are observers, nobody votes".into() });
    }
    if voters().any(|l| l.group.is_some())
        && let Some(left_out) = voters().find(|l| l.group.is_none())
    {
        let what = format!("server {} is in no group, but others are: every server that votes needs one", left_out.server.id);
        return Err(ConfigError::Refused { place: left_out.place.clone(), what });
    }
    if voters().all(|l| l.server.weight == 0) {
        return Err(ConfigError::Refused { place: place(), what: "all servers that vote have weight 0: no vote would ever count".into() });
    }
    Ok(())
}

/// Who can reach a port can speak on it, so servers that can be reached from elsewhere need a secret.
fn check_loopback(listed: &[Listed], listen_everywhere: bool) -> Result<(), ConfigError> {
    let exposed = listed.iter().find(|l| listen_everywhere || !l.server.on_loopback());
    let Some(l) = exposed else { return Ok(()) };
    let where_it_is =
        if listen_everywhere { "listens on all addresses".into() } else { format!("is at {}, not on loopback", l.server.host) };
    let what = format!(
        "server {} {where_it_is}, and there is no peerSecretFile (replication.peer_secret_file), by which servers know each other: \
         make one with `(umask 077; head -c 32 /dev/urandom | base64 > FILE)`, copy it to every server and name it there",
        l.server.id
    );
    Err(ConfigError::Refused { place: l.place.clone(), what })
}

/// What works, and probably is not what was meant.
pub(super) fn warnings(ensemble: &EnsembleConfig) -> Vec<String> {
    let voters: Vec<&ServerConfig> = ensemble.servers.iter().filter(|server| !server.observer).collect();
    let plain = voters.iter().all(|v| (v.weight, v.group) == (1, voters[0].group));
    let mut found = Vec::new();
    if voters.len() > VOTERS_SENSIBLE {
        found.push(format!("{} servers vote: more than {VOTERS_SENSIBLE} slow every write down; others can be observers", voters.len()));
    }
    match voters.len() {
        1 => found.push("one server votes: nothing can be written while it is down; three tolerate the loss of one".into()),
        2 => found.push("two servers vote: nothing can be written while one of them is down; three tolerate the loss of one".into()),
        count if plain && count % 2 == 0 => {
            found.push(format!("{count} servers vote, which tolerates no more failures than {}", count - 1));
        }
        _ => {}
    }
    let groups: BTreeSet<u64> = voters.iter().filter(|v| v.weight > 0).map(|v| v.group).collect();
    if groups.len() == 2 {
        found.push("there are two groups with votes: both are needed for every write, three would tolerate the loss of one".into());
    }
    found
}
