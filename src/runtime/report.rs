//! What one core tells operators: figures that it has anyway, and for the words that list things, the lists.
//! Refuses to add up and to format: `questions` and `admin` do.

use super::core::{CoreReport, Now};
use crate::admin::{ConnectionStats, Latency, Lists, SessionStats};
use crate::pipeline::conn::{Conn, Phase};
use crate::pipeline::latency;
use crate::pipeline::replica::Replica;
use crate::wire::request::opcode;

/// The report of `core`. Sessions and the nodes they own are the same everywhere: only the pipeline's core lists them.
pub fn of(core: usize, is_pipeline: bool, replica: &Replica, word: [u8; 4], now: Now) -> CoreReport {
    let (state, watches) = (replica.state(), replica.watches());
    let data = watches.data_watches();
    let lists_connections = matches!(&word, b"stat" | b"cons" | b"dump");
    let mut lists = Lists { digest: state.digest(), ..Lists::default() };
    match &word {
        b"dump" => {
            lists.sessionless = sessionless(replica, now);
            if is_pipeline {
                lists.ephemerals = ephemerals(replica);
            }
        }
        b"wchc" | b"wchp" => lists.watches = watch_list(replica),
        _ => {}
    }
    CoreReport {
        core,
        figures: replica.figures(),
        zxid: state.applied(),
        nodes: state.node_count() as u64,
        ephemerals: state.ephemeral_count() as u64,
        data_bytes: state.data_bytes(),
        sessions: state.session_count() as u64,
        watches: watches.watch_count() as u64,
        data_watches: data.watches as u64,
        watched_paths: data.paths as u64,
        watching_connections: data.conns as u64,
        connections: if lists_connections { replica.conns().map(|conn| particulars(conn, now)).collect() } else { Vec::new() },
        lists,
        replication: None,
    }
}

fn ephemerals(replica: &Replica) -> Vec<(i64, Vec<String>)> {
    let state = replica.state();
    let owners = state.sessions().filter(|(_, session)| session.ephemeral_count() > 0);
    owners.map(|(id, _)| (id, state.ephemerals(id))).collect()
}

fn sessionless(replica: &Replica, now: Now) -> Vec<(std::net::SocketAddr, i64)> {
    let ends = |conn: &Conn| now.wall_ms + (conn.established_ms + replica.handshake_timeout_ms()) as i64 - now.ms as i64;
    replica.conns().filter(|conn| conn.phase != Phase::Open).map(|conn| (conn.peer, ends(conn))).collect()
}

fn watch_list(replica: &Replica) -> Vec<(i64, String)> {
    let sessions: std::collections::BTreeMap<_, _> = replica.conns().map(|conn| (conn.id, conn.session)).collect();
    let mut list = Vec::new();
    replica.watches().for_each_data(|conn, path| list.push((sessions.get(&conn).copied().unwrap_or(0), path.to_owned())));
    list
}

/// A measurement in the words of `admin`.
pub fn measured(latency: &latency::Latency) -> Latency {
    let latency::Latency { min_ms, max_ms, sum_ms, count } = *latency;
    Latency { min_ms, max_ms, sum_ms, count }
}

/// A connection as `cons` shows it.
fn particulars(conn: &Conn, now: Now) -> ConnectionStats {
    let figures = &conn.figures;
    let answered = figures.sent > 0;
    let session = (conn.phase == Phase::Open).then(|| SessionStats {
        id: conn.session,
        last_op: if answered { opcode::short_name(figures.last_opcode) } else { "NA" },
        established_ms: now.wall_ms - (now.ms - conn.established_ms) as i64,
        timeout_ms: conn.timeout_ms as u32,
        last_cxid: if answered { i64::from(figures.last_xid) } else { -1 },
        last_zxid: if answered { figures.last_zxid as i64 } else { -1 },
        last_response_ms: figures.last_response_ms,
        last_latency_ms: figures.last_latency_ms,
        latency: measured(&figures.latency),
    });
    ConnectionStats {
        peer: conn.peer,
        // One that has asked for a word is not read on.
        reading: !conn.paused && conn.phase != Phase::FourLetter,
        queued: conn.pending.len() as u64,
        received: figures.received,
        sent: figures.sent,
        session,
    }
}
