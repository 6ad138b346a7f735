//! The four-letter words that list sessions and watches one by one: dump, wchc and wchp.
//! Refuses to format anything else: `fourletter` does.

use super::ServerStats;
use super::date::date;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Sessions with what they watch.
pub(super) fn watches_by_session(watches: &[(i64, String)]) -> String {
    groups(watches.iter().map(|(session, path)| (format!("0x{session:x}"), path.clone())))
}

/// Watched paths with who watches them.
pub(super) fn watches_by_path(watches: &[(i64, String)]) -> String {
    groups(watches.iter().map(|(session, path)| (path.clone(), format!("0x{session:x}"))))
}

fn groups(pairs: impl Iterator<Item = (String, String)>) -> String {
    let mut sets: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, member) in pairs {
        sets.entry(name).or_default().insert(member);
    }
    let mut out = String::new();
    for (name, members) in sets {
        line(&mut out, format_args!("{name}"));
        members.iter().for_each(|member| line(&mut out, format_args!("\t{member}")));
    }
    out.push('\n');
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a string takes everything");
}

/// Sessions and connections in the order of their end, and who owns which ephemeral nodes.
pub(super) fn sessions(stats: &ServerStats) -> String {
    let lists = &stats.lists;
    let mut out = String::from("SessionTracker dump:\n");
    let sessions = lists.session_expiries.iter().map(|(id, at_ms)| (*at_ms, format!("0x{id:x}")));
    expiries(&mut out, "Session", sessions, lists.expiry_step_ms);
    out += "ephemeral nodes dump:\n";
    line(&mut out, format_args!("Sessions with Ephemerals ({}):", lists.ephemerals.len()));
    for (id, paths) in &lists.ephemerals {
        line(&mut out, format_args!("0x{id:x}:"));
        paths.iter().for_each(|path| line(&mut out, format_args!("\t{path}")));
    }
    out += "Connections dump:\n";
    let text = |peer: &std::net::SocketAddr, session: i64| {
        format!("ip: /{}:{} sessionId: 0x{session:x}", super::fourletter::java_address(peer.ip()), peer.port())
    };
    let expiry: BTreeMap<i64, i64> = lists.session_expiries.iter().copied().collect();
    let with_session = stats.connections.iter().filter_map(|connection| {
        let session = connection.session.as_ref()?.id;
        Some((*expiry.get(&session)?, text(&connection.peer, session)))
    });
    let without = lists.sessionless.iter().map(|(peer, at_ms)| (*at_ms, text(peer, 0)));
    expiries(&mut out, "Connections", with_session.chain(without), lists.expiry_step_ms);
    out
}

/// What ends in the same step stands together.
fn expiries(out: &mut String, what: &str, ends: impl Iterator<Item = (i64, String)>, step_ms: i64) {
    let (mut sets, mut all) = (BTreeMap::<i64, Vec<String>>::new(), 0);
    let step_ms = step_ms.max(1);
    for (at_ms, name) in ends {
        sets.entry((at_ms.div_euclid(step_ms) + 1) * step_ms).or_default().push(name);
        all += 1;
    }
    line(out, format_args!("{what} Sets ({})/({all}):", sets.len()));
    for (at_ms, mut names) in sets {
        names.sort_unstable();
        line(out, format_args!("{} expire at {}:", names.len(), date(at_ms)));
        names.iter().for_each(|name| line(out, format_args!("\t{name}")));
    }
}
