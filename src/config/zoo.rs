//! ZooKeeper's zoo.cfg as it stands: Java properties, keys with or without the prefix `zookeeper.`, the file with the
//! members that it may name. Refuses what would be dangerous to leave out: TLS where plaintext would be served instead.

use super::error::{ConfigError, Place};
use super::known;
use super::load::{Draft, nearest, read};
use super::membership::{Membership, is_membership};
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
    let mut members = Membership::default();
    let mut member_line = None;
    let mut dynamic_file = None;
    let (mut secure_port, mut secure_peers) = (None, None);
    for property in properties(text) {
        let place = Place::line(file, property.line);
        let key = property.key.strip_prefix("zookeeper.").unwrap_or(&property.key);
        let value = property.value.trim();
        if is_membership(key) {
            members.take(key, &property, &place)?;
            member_line.get_or_insert((place, property.key.clone()));
        } else if key == "dynamicConfigFile" {
            dynamic_file = Some(value.to_owned());
        } else if key == "peerType" {
            check_role(value, &place, &property.key, draft)?;
        } else if let Some(setting) = SETTINGS.iter().find(|s| s.zoo == key && !s.zoo.is_empty()) {
            // ZooKeeper takes clientPort=0 as not given.
            if !(key == "clientPort" && value == "0") {
                draft.set(setting, &Given::Plain(value), &property.key, value, place)?;
            }
        } else if let Some(why) = known::without_effect(key) {
            match key {
                "secureClientPort" if value != "0" => secure_port = Some(place.clone()),
                "sslQuorum" if value.eq_ignore_ascii_case("true") => secure_peers = Some(place.clone()),
                _ => {}
            }
            draft.warn(format!("{place}: {}: no effect, {why}", property.key));
        } else {
            let names = SETTINGS.iter().map(|s| s.zoo).filter(|name| !name.is_empty()).chain(known::names());
            return Err(ConfigError::Unknown { place, key: property.key.clone(), nearest: nearest(key, names) });
        }
    }
    if let Some(dynamic) = dynamic_file.filter(|path| !path.is_empty()) {
        if let Some((place, key)) = member_line {
            let what = format!("{key} must stand in the dynamicConfigFile, {dynamic}, where there is one");
            return Err(ConfigError::Refused { place, what });
        }
        read_dynamic(Path::new(&dynamic), &mut members)?;
    }
    let (listed, said) = members.finish()?;
    said.into_iter().for_each(|line| draft.warn(line));
    if let Some(place) = secure_peers.filter(|_| listed.len() > 1) {
        let what = "sslQuorum: there is no TLS between servers yet; a peerSecretFile authenticates them, and encrypts nothing".into();
        return Err(ConfigError::Refused { place, what });
    }
    let listed_port = listed.iter().any(|l| l.server.client_port.is_some());
    draft.list(listed);
    match secure_port {
        Some(place) if !draft.is_set("client.port") && !listed_port => {
            let what = "secureClientPort without clientPort: there is no TLS yet, and plaintext was not asked for".into();
            Err(ConfigError::Refused { place, what })
        }
        _ => Ok(()),
    }
}

/// The lines about membership in a file of their own, as ZooKeeper writes it when `reconfig` is allowed.
fn read_dynamic(file: &Path, members: &mut Membership) -> Result<(), ConfigError> {
    for property in properties(&read(file)?) {
        let place = Place::line(file, property.line);
        let key = property.key.as_str();
        if is_membership(key) {
            members.take(key, &property, &place)?;
        } else if key != "version" {
            let what = format!("{key:?} does not belong here: only server.N, group.N and weight.N do");
            return Err(ConfigError::Refused { place, what });
        }
    }
    Ok(())
}

/// ZooKeeper has a server's role in two places; the list decides.
fn check_role(role: &str, place: &Place, key: &str, draft: &mut Draft) -> Result<(), ConfigError> {
    let observer = match role.to_ascii_lowercase().as_str() {
        "observer" => true,
        "participant" => false,
        _ => {
            let allowed = "participant or observer".into();
            return Err(ConfigError::BadValue { place: place.clone(), key: key.into(), value: role.into(), allowed });
        }
    };
    draft.expect_role(observer, place.clone());
    Ok(())
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
}
