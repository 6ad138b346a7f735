//! The servers of an ensemble in TOML: `[[ensemble.servers]]`, one table for each.
//! Refuses everything else under `ensemble`.

use super::ensemble::{Listed, ServerConfig};
use super::error::{ConfigError, Place};
use super::load::nearest;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

const KEYS: [&str; 9] = ["id", "host", "peer_port", "election_port", "observer", "weight", "group", "client_address", "client_port"];
/// ZooKeeper's.
const PEER_PORT: u16 = 2888;

/// What stands under `ensemble`, which opens at `place`; `at` finds the place of a byte.
pub(super) fn read(content: &DeValue<'_>, at: &dyn Fn(usize) -> Place, place: Place) -> Result<Vec<Listed>, ConfigError> {
    let wrong = |place, key: &str| {
        let what = format!("{key}: servers are listed as [[ensemble.servers]], each with id and host");
        ConfigError::Refused { place, what }
    };
    let DeValue::Table(table) = content else { return Err(wrong(place, "ensemble")) };
    let mut listed = Vec::new();
    for (key, value) in table {
        let (place, name) = (at(key.span().start), format!("ensemble.{}", key.get_ref()));
        let DeValue::Array(servers) = value.get_ref() else { return Err(wrong(place, &name)) };
        if name != "ensemble.servers" {
            return Err(ConfigError::Unknown { place, key: name, nearest: Some("ensemble.servers") });
        }
        for server in servers {
            let DeValue::Table(fields) = server.get_ref() else { return Err(wrong(place, &name)) };
            listed.push(one(fields, at, at(server.span().start))?);
        }
    }
    Ok(listed)
}

fn one(fields: &DeTable<'_>, at: &dyn Fn(usize) -> Place, place: Place) -> Result<Listed, ConfigError> {
    let mut server = ServerConfig::new(0, String::new(), PEER_PORT);
    let (mut id, mut group, mut election_port) = (None, None, None);
    for (key, value) in fields {
        let (name, place, value) = (key.get_ref().as_ref(), at(key.span().start), value.get_ref());
        let bad = |allowed: &str| ConfigError::BadValue {
            place: place.clone(),
            key: format!("ensemble.servers.{name}"),
            value: shown(value),
            allowed: allowed.into(),
        };
        let number = |range: Range<u64>| whole(value, &range).ok_or_else(|| bad(&format!("{} to {}", range.start, range.end - 1)));
        match name {
            "id" => id = Some(number(1..255)? as u16),
            "host" => server.host = host(value).ok_or_else(|| bad("a name or an address, without brackets and port"))?,
            "peer_port" => {
                let peer_port = number(1..65_536)? as u16;
                server = ServerConfig { peer_port, election_port: ServerConfig::new(0, String::new(), peer_port).election_port, ..server };
            }
            "election_port" => election_port = Some(number(1..65_536)? as u16),
            "observer" => match value {
                DeValue::Boolean(observer) => server.observer = *observer,
                _ => return Err(bad("true or false")),
            },
            "weight" => server.weight = number(0..1 << 32)?,
            "group" => group = Some(number(0..1 << 32)?),
            "client_address" => server.client_address = Some(host(value).ok_or_else(|| bad("a name or an address, without brackets"))?),
            "client_port" => server.client_port = Some(number(0..65_536)? as u16),
            _ => {
                return Err(ConfigError::Unknown {
                    place,
                    key: format!("ensemble.servers.{name}"),
                    nearest: nearest(name, KEYS.into_iter()),
                });
            }
        }
    }
    server.election_port = election_port.unwrap_or(server.election_port);
    server.id = id.ok_or_else(|| missing(&place, "id"))?;
    if server.host.is_empty() {
        return Err(missing(&place, "host"));
    }
    if server.client_address.is_some() && server.client_port.is_none() {
        return Err(missing(&place, "client_port, to go with client_address,"));
    }
    Ok(Listed { place, server, group })
}

fn missing(place: &Place, key: &str) -> ConfigError {
    ConfigError::Refused { place: place.clone(), what: format!("ensemble.servers: {key} is missing") }
}

fn whole(value: &DeValue<'_>, range: &Range<u64>) -> Option<u64> {
    let DeValue::Integer(digits) = value else { return None };
    let number = (digits.radix() == 10).then(|| digits.as_str().replace('_', "").parse().ok())??;
    range.contains(&number).then_some(number)
}

fn host(value: &DeValue<'_>) -> Option<String> {
    let DeValue::String(text) = value else { return None };
    let sound = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || "[]/;|".contains(c));
    sound.then(|| text.to_string())
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.replace(char::is_control, " "),
        DeValue::Integer(digits) => digits.as_str().into(),
        DeValue::Float(digits) => digits.as_str().into(),
        DeValue::Boolean(on) => on.to_string(),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => "(not a plain value)".into(),
    }
}

/// As [`read`] takes it.
pub(super) fn show(server: &ServerConfig) -> String {
    let ServerConfig { id, host, peer_port, election_port, client_address, client_port, observer, weight, group } = server;
    let text = |text: &str| toml::Value::String(text.into()).to_string();
    let mut shown =
        format!("\n[[ensemble.servers]]\nid = {id}\nhost = {}\npeer_port = {peer_port}\nelection_port = {election_port}\n", text(host));
    shown += &format!("observer = {observer}\nweight = {weight}\ngroup = {group}\n");
    if let Some(address) = client_address {
        shown += &format!("client_address = {}\n", text(address));
    }
    if let Some(port) = client_port {
        shown += &format!("client_port = {port}\n");
    }
    shown
}
