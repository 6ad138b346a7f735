//! ZooKeeper's zoo.cfg as it stands: Java properties, keys with or without the prefix `zookeeper.`, and `server.N`.
//! Refuses what would be dangerous to leave out: more than one server, membership in another file, TLS instead of plaintext.

use super::error::{ConfigError, Place};
use super::known;
use super::load::{Draft, nearest};
use super::settings::{Given, SETTINGS};
use std::path::Path;

/// One key and value, and the line they start on.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Property {
    pub line: usize,
    pub key: String,
    pub value: String,
}

/// Takes every property into the draft.
pub(super) fn apply(text: &str, file: &Path, draft: &mut Draft) -> Result<(), ConfigError> {
    let mut members = Vec::new();
    let mut secure_port = None;
    for property in properties(text) {
        let place = Place::line(file, property.line);
        let key = property.key.strip_prefix("zookeeper.").unwrap_or(&property.key);
        let value = property.value.trim();
        if let Some(id) = key.strip_prefix("server.") {
            members.push(Member::parse(id, value).ok_or_else(|| bad_member(&place, &property, value))?.at(place));
        } else if key == "dynamicConfigFile" {
            let what = "dynamicConfigFile: membership in a file of its own is not supported yet, there are no ensembles yet".into();
            return Err(ConfigError::Refused { place, what });
        } else if let Some(setting) = SETTINGS.iter().find(|s| s.zoo == key && !s.zoo.is_empty()) {
            // ZooKeeper takes clientPort=0 as not given.
            if !(key == "clientPort" && value == "0") {
                draft.set(setting, &Given::Plain(value), &property.key, value, place)?;
            }
        } else if let Some(why) = known::without_effect(key) {
            if key == "secureClientPort" && value != "0" {
                secure_port = Some(place.clone());
            }
            draft.warn(format!("{place}: {}: no effect, {why}", property.key));
        } else {
            let names = SETTINGS.iter().map(|s| s.zoo).filter(|name| !name.is_empty()).chain(known::names());
            return Err(ConfigError::Unknown { place, key: property.key.clone(), nearest: nearest(key, names) });
        }
    }
    take_members(members, draft)?;
    match secure_port {
        Some(place) if !draft.is_set("client.port") => {
            let what = "secureClientPort without clientPort: there is no TLS yet, and plaintext was not asked for".into();
            Err(ConfigError::Refused { place, what })
        }
        _ => Ok(()),
    }
}

fn bad_member(place: &Place, property: &Property, value: &str) -> ConfigError {
    ConfigError::BadValue {
        place: place.clone(),
        key: property.key.clone(),
        value: value.into(),
        allowed: "server.ID = HOST:PORT:PORT[:participant|observer][;[ADDRESS:]CLIENTPORT], ID 0 to 254".into(),
    }
}

/// A standalone server may be written as the one member it is; its line can carry the client port.
fn take_members(members: Vec<(Place, Member)>, draft: &mut Draft) -> Result<(), ConfigError> {
    if let Some((place, _)) = members.get(1) {
        let what = format!("{} servers are listed, but there are no ensembles yet: leave one server.N line or none", members.len());
        return Err(ConfigError::Refused { place: place.clone(), what });
    }
    let Some((place, member)) = members.into_iter().next() else { return Ok(()) };
    if member.observer {
        let what = "the only server is an observer, which cannot run alone".into();
        return Err(ConfigError::Refused { place, what });
    }
    draft.member(member.id, place.clone());
    let Some(port) = member.client_port else { return Ok(()) };
    if draft.is_set("client.port") && draft.config().client.port.to_string() != port {
        let what = format!("client port {port} contradicts clientPort {}", draft.config().client.port);
        return Err(ConfigError::Refused { place, what });
    }
    let settings = [("client.port", Some(port)), ("client.address", member.client_address)];
    for (key, value) in settings {
        let Some(value) = value else { continue };
        let setting = SETTINGS.iter().find(|s| s.key == key).expect("a key of the table");
        draft.set(setting, &Given::Plain(&value), "server.N", &value, place.clone())?;
    }
    Ok(())
}

/// One `server.N` line, as far as a server alone needs it.
#[derive(PartialEq, Eq, Debug)]
struct Member {
    id: u16,
    observer: bool,
    client_address: Option<String>,
    client_port: Option<String>,
}

impl Member {
    /// `host:quorumPort:electionPort[:role][;[address:]clientPort]`; several addresses stand between `|`.
    fn parse(id: &str, value: &str) -> Option<Member> {
        let id = id.parse().ok().filter(|&id| id <= 254)?;
        let (addresses, client) = value.split_once(';').map_or((value, None), |(a, c)| (a.trim(), Some(c.trim())));
        let mut observer = false;
        for address in addresses.split('|') {
            let (head, tail) = address.trim().rsplit_once(':')?;
            let ports = match tail.to_ascii_lowercase().as_str() {
                "observer" => (observer = true, head).1,
                "participant" => head,
                _ => address.trim(),
            };
            let (rest, election) = ports.rsplit_once(':')?;
            let (host, quorum) = rest.rsplit_once(':')?;
            if host.is_empty() || election.parse::<u16>().is_err() || quorum.parse::<u16>().is_err() {
                return None;
            }
        }
        let (client_address, client_port) = match client.map(|c| c.rsplit_once(':').map_or((None, c), |(a, p)| (Some(a), p))) {
            None => (None, None),
            Some((address, port)) => (address.map(str::to_owned), Some(port.parse::<u16>().ok()?.to_string())),
        };
        Some(Member { id, observer, client_address, client_port })
    }

    fn at(self, place: Place) -> (Place, Member) {
        (place, self)
    }
}

/// Reads Java properties: comments, three separators, continued lines, escapes. Anything at all can be read.
pub(super) fn properties(text: &str) -> Vec<Property> {
    logical_lines(text)
        .into_iter()
        .map(|(line, text)| {
            let (key, value) = split(&text);
            Property { line, key: unescape(key), value: unescape(value) }
        })
        .collect()
}

/// Lines without comments and blank ones, continued ones joined.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, raw) in text.lines().enumerate() {
        let line = raw.trim_start_matches([' ', '\t', '\x0c']);
        if open.is_none() && (line.is_empty() || line.starts_with(['#', '!'])) {
            continue;
        }
        let backslashes = line.bytes().rev().take_while(|&b| b == b'\\').count();
        let continued = backslashes % 2 == 1;
        let kept = &line[..line.len() - usize::from(continued)];
        let (_, joined) = open.get_or_insert_with(|| (index + 1, String::new()));
        joined.push_str(kept);
        if !continued {
            found.extend(open.take());
        }
    }
    found.extend(open);
    found
}

/// Where the key ends and the value starts: at the first `=`, `:` or blank that is not escaped.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let ends = !escaped && (c == '=' || c == ':' || blank(c));
        escaped = !escaped && c == '\\';
        ends
    });
    let Some(end) = end else { return (line, "") };
    let rest = line[end..].trim_start_matches(blank);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (&line[..end], rest.trim_start_matches(blank))
}

fn blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\x0c')
}

/// Undoes `\t`, `\n`, `\r`, `\f`, `\uXXXX`; any other escaped character stands for itself. A bad `\u` stays as it is.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\x0c'),
            Some('u') => {
                let code = chars.as_str().get(..4).and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
                match code {
                    Some(decoded) => {
                        out.push(decoded);
                        chars = chars.as_str()[4..].chars();
                    }
                    None => out.push_str("\\u"),
                }
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(usize, String, String)> {
        properties(text).into_iter().map(|p| (p.line, p.key, p.value)).collect()
    }

    fn one(line: usize, key: &str, value: &str) -> (usize, String, String) {
        (line, key.into(), value.into())
    }

    #[test]
    fn separators_comments_and_blanks() {
        let text = "# a\n  ! b\n\na=1\n b : 2\nc 3\nd\te = f\n\tg\r\nh==:x \n";
        let want = [one(4, "a", "1"), one(5, "b", "2"), one(6, "c", "3"), one(7, "d", "e = f"), one(8, "g", ""), one(9, "h", "=:x ")];
        assert_eq!(read(text), want);
    }

    #[test]
    fn continued_lines_and_escapes() {
        let text = "a = b\\\n   c\\\n# d\nk\\ ey\\=x = C:\\\\dir\\u0041\\t\nend\\\\\nopen\\";
        let want = [one(1, "a", "bc# d"), one(4, "k ey=x", "C:\\dirA\t"), one(5, "end\\", ""), one(6, "open", "")];
        assert_eq!(read(text), want);
    }

    #[test]
    fn members() {
        let parse = |value| Member::parse("1", value);
        let plain = Member { id: 1, observer: false, client_address: None, client_port: None };
        assert_eq!(parse("host:2888:3888").as_ref(), Some(&plain));
        assert_eq!(parse("[::1]:2888:3888:participant").as_ref(), Some(&plain));
        let with_port = Member { client_port: Some("2181".into()), ..Member::parse("1", "h:1:2").unwrap() };
        assert_eq!(parse("host:2888:3888;2181"), Some(with_port));
        let full = parse("a:1:2:observer|b:1:2:observer;[::1]:2181").unwrap();
        assert!(full.observer);
        assert_eq!((full.client_address.as_deref(), full.client_port.as_deref()), (Some("[::1]"), Some("2181")));
        for bad in ["", "host", "host:1", "host:1:2:leader", ":1:2", "host:1:2;x", "host:1:99999"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(Member::parse("255", "h:1:2"), None);
    }
}
