//! Answers to four-letter words. A plain thread asks every core how it is, adds up, and posts the text back to the core
//! that was asked; slow directories and many connections delay nobody but the asker.
//! Refuses to format: `admin` does, from plain numbers.

use super::core::{CoreReport, Mail, Server};
use super::{report, sys};
use crate::admin::{Host, Latency, LimitFigures, Lists, Mode, ServerStats, Settings, Traffic, fourletter};
use crate::config::Config;
use crate::pipeline::message::ConnId;
use crate::pipeline::replica::ShardFigures;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

/// How long a core may take to report. One that is busy longer is left out.
const REPORT_WAIT: Duration = Duration::from_secs(1);

/// A four-letter word that a connection has sent.
pub struct Question {
    pub core: usize,
    pub conn: ConnId,
    pub word: [u8; 4],
    /// What follows the word `stmk`.
    pub argument: i64,
}

/// Starts the answering thread; it ends when the last sender is gone.
pub fn start(server: Arc<Server>, config: &Config) -> std::io::Result<mpsc::Sender<Question>> {
    let (sender, questions) = mpsc::channel::<Question>();
    let mut desk = Desk {
        server,
        allowed: config.admin.four_letter_words,
        settings: config.admin_settings(),
        data_dir: config.data.dir.clone(),
        log_dir: config.data.log_dir.clone(),
        host: host(),
        trace_mask: fourletter::TRACE_MASK,
    };
    thread::Builder::new().name("questions".into()).spawn(move || {
        for question in questions {
            let text = desk.answer(&question);
            desk.server.cores[question.core].post(Mail::Answer(question.conn, text));
        }
    })?;
    Ok(sender)
}

struct Desk {
    server: Arc<Server>,
    allowed: fourletter::Whitelist,
    settings: Settings,
    data_dir: PathBuf,
    log_dir: PathBuf,
    host: Host,
    /// Kept and shown, like ZooKeeper's; there is nothing here that it would trace.
    trace_mask: i64,
}

impl Desk {
    fn answer(&mut self, question: &Question) -> String {
        // A word that is not allowed gets its refusal, and must not do anything.
        let word = if self.allowed.allows(question.word) { question.word } else { *b"ruok" };
        if word == *b"stmk" {
            self.trace_mask = question.argument;
        }
        fourletter::answer(question.word, self.allowed, &self.stats(word))
    }

    fn stats(&self, word: [u8; 4]) -> ServerStats {
        let reports = self.reports(word);
        let pipeline = reports.iter().find(|r| r.core == self.server.pipeline).or(reports.first()).cloned().unwrap_or_default();
        let sum = |of: fn(&CoreReport) -> u64| reports.iter().map(of).sum::<u64>();
        let mut latency = Latency::default();
        reports.iter().for_each(|report| latency.merge(report::measured(&report.figures.latency)));
        ServerStats {
            serving: self.server.is_serving(),
            mode: pipeline.replication.as_ref().map_or(Mode::Standalone, |replication| replication.mode),
            replication: pipeline.replication.clone(),
            latency,
            packets_received: sum(|r| r.figures.received),
            packets_sent: sum(|r| r.figures.sent),
            connection_count: sum(|r| r.figures.connections),
            connections: reports.iter().flat_map(|r| r.connections.iter().cloned()).collect(),
            outstanding: sum(|r| r.figures.outstanding),
            zxid: pipeline.zxid,
            node_count: pipeline.nodes,
            ephemeral_count: pipeline.ephemerals,
            data_bytes: pipeline.data_bytes,
            session_count: pipeline.sessions,
            watch_count: sum(|r| r.watches),
            data_watches: sum(|r| r.data_watches),
            traffic: traffic(&reports),
            limits: limits(&reports),
            trace_mask: self.trace_mask,
            lists: self.lists(&reports, &pipeline),
            watching_connections: sum(|r| r.watching_connections),
            watched_paths: sum(|r| r.watched_paths),
            uptime_ms: self.server.now().ms,
            open_files: std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
            open_files_max: sys::open_files().soft,
            data_dir_bytes: directory_bytes(&self.data_dir),
            log_dir_bytes: directory_bytes(&self.log_dir),
            settings: self.settings.clone(),
            host: self.host.clone(),
        }
    }

    fn lists(&self, reports: &[CoreReport], pipeline: &CoreReport) -> Lists {
        Lists {
            sessionless: reports.iter().flat_map(|r| r.lists.sessionless.iter().copied()).collect(),
            watches: reports.iter().flat_map(|r| r.lists.watches.iter().cloned()).collect(),
            expiry_step_ms: i64::from(self.settings.tick_time_ms),
            ..pipeline.lists.clone()
        }
    }

    /// What each core says, in the order of cores.
    fn reports(&self, word: [u8; 4]) -> Vec<CoreReport> {
        let (to, reports) = mpsc::channel();
        self.server.post_all(|| Mail::Report { to: to.clone(), word });
        drop(to);
        let mut found: Vec<CoreReport> = (0..self.server.cores.len()).map_while(|_| reports.recv_timeout(REPORT_WAIT).ok()).collect();
        found.sort_by_key(|report| report.core);
        found
    }
}

fn traffic(reports: &[CoreReport]) -> Traffic {
    let sum = |of: fn(&ShardFigures) -> u64| reports.iter().map(|report| of(&report.figures)).sum();
    Traffic {
        bytes_received: sum(|f| f.bytes_received),
        connection_requests: sum(|f| f.connection_requests),
        connections_rejected: sum(|f| f.connections_rejected),
        auth_failures: sum(|f| f.auth_failures),
        sessionless_expired: sum(|f| f.sessionless_expired),
        watch_bytes: sum(|f| f.watch_bytes),
    }
}

fn limits(reports: &[CoreReport]) -> LimitFigures {
    let sum = |of: fn(&ShardFigures) -> u64| reports.iter().map(|report| of(&report.figures)).sum();
    LimitFigures {
        unparsed_bytes: sum(|f| f.unparsed_bytes),
        queued_bytes: sum(|f| f.queued_bytes),
        large_requests_rejected: sum(|f| f.large_requests_rejected),
        receive_pauses: sum(|f| f.receive_pauses),
        partial_requests_closed: sum(|f| f.partial_requests_closed),
        watchers_closed: sum(|f| f.watchers_closed),
        sessions_refused: sum(|f| f.sessions_refused),
        watches_refused: sum(|f| f.watches_refused),
        writes_system_error: sum(|f| f.writes_refused.system_error),
        writes_bad_arguments: sum(|f| f.writes_refused.bad_arguments),
        writes_invalid_acl: sum(|f| f.writes_refused.invalid_acl),
        writes_quota_exceeded: sum(|f| f.writes_refused.quota_exceeded),
    }
}

fn directory_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
}

fn host() -> Host {
    let kernel = |name: &str| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default().trim().to_string();
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    Host {
        name: kernel("hostname"),
        os_version: kernel("osrelease"),
        user: variable("USER"),
        home: variable("HOME"),
        working_dir: std::env::current_dir().map(|dir| dir.display().to_string()).unwrap_or_default(),
    }
}
