//! Who is in the ensemble, as a zoo.cfg or its dynamic file says it: `server.N`, `group.N` and `weight.N`.
//! Refuses what ZooKeeper refuses, and to look for servers in two places.

use super::ensemble::{Listed, ServerConfig};
use super::error::{ConfigError, Place};
use super::zoo::Property;
use std::collections::BTreeMap;

/// What those lines say, as far as they were read.
#[derive(Default)]
pub(super) struct Membership {
    listed: Vec<Listed>,
    groups: BTreeMap<u16, (Place, u64)>,
    weights: BTreeMap<u16, (Place, u64)>,
    /// Servers with several addresses.
    several: Vec<(Place, u16)>,
}

/// Whether a key, without the prefix `zookeeper.`, is about membership.
pub(super) fn is_membership(key: &str) -> bool {
    ["server.", "group.", "weight."].iter().any(|start| key.starts_with(start))
}

impl Membership {
    /// Takes a line for which [`is_membership`] holds.
    pub fn take(&mut self, key: &str, property: &Property, place: &Place) -> Result<(), ConfigError> {
        let value = property.value.trim();
        let bad = |allowed: &str| ConfigError::BadValue {
            place: place.clone(),
            key: property.key.clone(),
            value: value.into(),
            allowed: allowed.into(),
        };
        let (kind, name) = key.split_once('.').expect("a key about membership");
        match kind {
            "server" => {
                let parsed = server(name, value);
                let (server, addresses) =
                    parsed.ok_or_else(|| bad("server.ID = HOST:PORT:PORT[:participant|observer][;[ADDRESS:]CLIENTPORT], ID 0 to 254"))?;
                if addresses > 1 {
                    self.several.push((place.clone(), server.id));
                }
                self.listed.push(Listed { place: place.clone(), server, group: None });
            }
            "group" => {
                let allowed = "group.N = ID:ID:..., each server in one group";
                let group = name.parse().map_err(|_| bad(allowed))?;
                for id in value.split(':') {
                    let id = id.trim().parse().map_err(|_| bad(allowed))?;
                    if let Some((before, _)) = self.groups.insert(id, (place.clone(), group)) {
                        let what = format!("server {id} is in a group already, at {before}");
                        return Err(ConfigError::Refused { place: place.clone(), what });
                    }
                }
            }
            _ => {
                let allowed = "weight.ID = 0 to 4294967295";
                let (id, weight) = (name.parse().map_err(|_| bad(allowed))?, value.parse::<u32>().map_err(|_| bad(allowed))?);
                self.weights.insert(id, (place.clone(), weight.into()));
            }
        }
        Ok(())
    }

    /// Every server with its group and weight, in the order of the lines, and what should be said about them.
    pub fn finish(mut self) -> Result<(Vec<Listed>, Vec<String>), ConfigError> {
        for l in &mut self.listed {
            l.group = self.groups.remove(&l.server.id).map(|(_, group)| group);
            l.server.weight = self.weights.remove(&l.server.id).map_or(1, |(_, weight)| weight);
        }
        let mut said = Vec::new();
        // With a server alone nothing votes, and the lines do no harm.
        if self.listed.len() > 1 {
            if let Some((id, (place, _))) = self.groups.into_iter().chain(self.weights).next() {
                return Err(ConfigError::Refused { place, what: format!("there is no server.{id}") });
            }
            let place = &self.listed[0].place;
            said.push(format!("{place}: the second port of a server, for elections, is not used: the first one carries everything"));
        }
        let first = |(place, id): &(Place, u16)| format!("{place}: server.{id}: its first address is used, the others are not");
        said.extend(self.several.iter().map(first));
        Ok((self.listed, said))
    }
}

/// `host:quorumPort:electionPort[:role][;[address:]clientPort[;[address:]securePort]]`; several addresses stand between
/// `|`. The server at its first address, and how many there are.
fn server(id: &str, value: &str) -> Option<(ServerConfig, usize)> {
    let id = id.parse().ok().filter(|&id| id <= 254)?;
    let (addresses, client) = value.split_once(';').map_or((value, None), |(a, c)| (a.trim(), Some(c.trim())));
    let mut found: Option<ServerConfig> = None;
    let mut observer = false;
    for address in addresses.split('|') {
        let (head, tail) = address.trim().rsplit_once(':')?;
        let ports = match tail.trim().to_ascii_lowercase().as_str() {
            "observer" => (observer = true, head).1,
            "participant" => head,
            _ => address.trim(),
        };
        let (rest, election) = ports.rsplit_once(':')?;
        let (host, quorum) = rest.rsplit_once(':')?;
        let election_port = election.trim().parse::<u16>().ok()?;
        let mut server = ServerConfig::new(id, bare(host)?, quorum.trim().parse().ok()?);
        if election_port != server.peer_port {
            server.election_port = election_port;
        }
        found.get_or_insert(server);
    }
    let mut server = found?;
    server.observer = observer;
    if let Some(client) = client {
        // What may follow is for TLS.
        let plain = client.split(';').next().unwrap_or(client).trim();
        let (address, port) = plain.rsplit_once(':').map_or((None, plain), |(a, p)| (Some(a), p));
        server.client_address = address.map(bare).map_or(Some(None), |address| address.map(Some))?;
        server.client_port = Some(port.trim().parse().ok()?);
    }
    Some((server, addresses.split('|').count()))
}

/// A host without brackets; `None` where there is none.
fn bare(host: &str) -> Option<String> {
    let host = host.trim();
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    (!bare.is_empty() && !bare.contains(|c: char| c.is_whitespace() || c.is_control())).then(|| bare.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Option<ServerConfig> {
        server("1", value).map(|(server, _)| server)
    }

    #[test]
    fn servers() {
        let plain = ServerConfig::new(1, "host".into(), 2888);
        assert_eq!(plain.election_port, 3888);
        assert_eq!(parse("host:2888:3888").as_ref(), Some(&plain));
        assert_eq!(parse("[::1]:2888:3888:participant"), Some(ServerConfig { host: "::1".into(), ..plain.clone() }));
        assert_eq!(parse("host:2888:3888;2181"), Some(ServerConfig { client_port: Some(2181), ..plain.clone() }));
        let full = server("1", "a:1:2:observer|b:3:4:observer;[::1]:2181;2182");
        let want = ServerConfig {
            observer: true,
            client_address: Some("::1".into()),
            client_port: Some(2181),
            election_port: 2,
            ..ServerConfig::new(1, "a".into(), 1)
        };
        assert_eq!(full, Some((want, 2)));
        for bad in ["", "host", "host:1", "host:1:2:leader", ":1:2", "a b:1:2", "host:1:2;x", "host:1:99999", "host:1:2;:", "host:1:2;:3"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(server("255", "h:1:2"), None);
    }

    #[test]
    fn servers_are_written_as_zookeeper_writes_them() {
        for line in ["host:2888:3888:participant", "[::1]:1:2:observer;[::1]:2181", "host:1:2:participant;0.0.0.0:2181"] {
            assert_eq!(parse(line).unwrap().to_string(), format!("server.1={line}"));
        }
        assert_eq!(parse("host:1:2;2181").unwrap().to_string(), "server.1=host:1:2:participant;0.0.0.0:2181");
        // Clients refuse a list in which the two are the same.
        assert_eq!(parse("host:1:1").unwrap().to_string(), "server.1=host:1:1001:participant");
        assert_eq!(parse("host:65535:65535").unwrap().to_string(), "server.1=host:65535:64535:participant");
    }
}
