//! Starts and stops a server: locks the directory, probes the kernel, recovers, starts one thread per core, and serves
//! once this run's epoch is committed. Every failure before that is one line and leaves the data as it was.
//! Refuses to serve anything half: a core that cannot start, or dies, takes the process with it.

use super::background::Background;
use super::commit_ring::commit_ring;
use super::core::{Mail, PipelineMail, Server};
use super::core_thread::{CoreSeed, Progress, spawn};
use super::files::{FileDisk, FilesError};
use super::links::{Identity, Links, LinksConfig, LinksError, PeerAddress};
use super::listener::{ListenError, Listener};
use super::mesh::{byte_ring, slot_ring};
use super::pipeline::{EXIT_DISK_FAILED, Ends};
use super::placement::Placements;
use super::probe::{self, ProbeError};
use super::questions;
use super::shard::ShardEnds;
use super::sys;
use crate::config::Config;
use crate::limits::{COMMIT_RING_SLOTS, DOWN_RING_SLOTS, SEGMENT_BYTES, SHARDS_MAX, SUBMIT_RING_BYTES};
use crate::log::recovery::{self, Format, Recovered, RecoveryError};
use crate::peer::Secret;
use crate::tree::snapshot::BadSnapshot;
use glommio::ExecutorJoinHandle;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::net::ToSocketAddrs;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Loading is reported when it takes longer than this, and then again every so often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// How long stopping waits for the log before it leaves without a mark: nothing acknowledged depends on it.
const SETTLE_WAIT: Duration = Duration::from_millis(700);

/// Why the server did not start. Displays as one line with what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Probe(#[from] ProbeError),
    #[error("{0}")]
    Files(#[from] FilesError),
    #[error("{0}")]
    Listen(#[from] ListenError),
    #[error("{0}")]
    Links(#[from] LinksError),
    #[error("{host}, where the list of servers says that this one listens for the others: {error}")]
    Resolve { host: String, error: io::Error },
    #[error("{directory} belongs to server {found}, and this is server {id}: each server needs a directory of its own")]
    OtherServer { directory: String, found: u64, id: u16 },
    #[error("{0}")]
    Recovery(#[from] RecoveryError),
    #[error("the snapshot is intact, but its records make no sense: {0:?}")]
    Snapshot(BadSnapshot),
    #[error("{0} shards are too many: at most {SHARDS_MAX}")]
    Shards(usize),
    #[error("a thread could not be started: {0}")]
    Thread(String),
    #[error("the system refuses what a server needs: {0}")]
    System(#[from] io::Error),
}

impl StartError {
    /// The exit code of a process that ends with this error: 1, or 3 for damaged data, 4 for a disk that fails.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Recovery(RecoveryError::Io { .. }) => EXIT_DISK_FAILED as u8,
            StartError::Files(FilesError::Io { error, .. }) if error.raw_os_error() == Some(libc::EIO) => EXIT_DISK_FAILED as u8,
            StartError::Recovery(RecoveryError::Corrupt(_) | RecoveryError::Superblock { .. } | RecoveryError::Snapshot { .. }) => 3,
            StartError::Snapshot(_) => 3,
            _ => 1,
        }
    }
}

/// What the starting thread waits for.
pub enum Milestone {
    /// One more core has its State.
    Loaded,
    Failed(StartError),
    /// This run's epoch is committed.
    Serving,
    /// Somebody asked the process to stop.
    Stopping,
    /// Nothing is left to write.
    Settled,
}

/// Runs a server until SIGTERM or SIGINT. Returns Ok after a clean stop.
pub fn serve(config: Config) -> Result<(), StartError> {
    sys::raise_open_files();
    let placements = Placements::of(&config.threads, config.server.id);
    if placements.shards > SHARDS_MAX {
        return Err(StartError::Shards(placements.shards));
    }
    probe::probe(placements.cores().len())?;
    let disk = Arc::new(FileDisk::open(&config.data.dir, &config.data.log_dir)?);
    let listener = Listener::bind(config.client_address())?;
    let recovered = recover(&disk, &config)?;
    let mut running = Running::start(config, &placements, disk, recovered, listener)?;
    running.run()?;
    running.stop();
    Ok(())
}

/// Reads the data directory, or makes a new one.
fn recover(disk: &FileDisk, config: &Config) -> Result<Recovered, StartError> {
    let recovered = match recovery::open(disk) {
        Err(RecoveryError::Unformatted { directory }) => {
            tracing::info!("{directory} is new");
            let (cluster, incarnation) = (random()?, random()?);
            let (server, segment_bytes) = (u64::from(config.server.id), SEGMENT_BYTES as u64);
            // In an ensemble a new directory is no member: whoever had its number may have promised something.
            let format = Format { cluster, server, incarnation, segment_bytes, member: config.ensemble.is_none() };
            recovery::format(disk, &format)?;
            recovery::open(disk)?
        }
        other => other?,
    };
    let (found, id) = (recovered.superblock.server, config.server.id);
    if config.ensemble.is_some() && found != u64::from(id) {
        return Err(StartError::OtherServer { directory: config.data.dir.display().to_string(), found, id });
    }
    if let Some((file, offset)) = &recovered.cut {
        tracing::info!("{file}: a write was torn at byte {offset} by the last stop and was cut; nothing acknowledged was in it");
    }
    if let Some((file, bad)) = &recovered.fell_back {
        tracing::warn!("{file} cannot be used ({bad}); an older snapshot and the log replace it");
    }
    Ok(recovered)
}

fn random() -> Result<u128, StartError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(u128::from_le_bytes(bytes))
}

/// A server's threads, seen from the one that started them.
struct Running {
    server: Arc<Server>,
    /// It has no peers.
    alone: bool,
    /// Until they are started.
    links: Option<LinksConfig>,
    introduction: Arc<Identity>,
    listener: Listener,
    backlog: u32,
    cores: Vec<ExecutorJoinHandle<()>>,
    progress: Arc<Progress>,
    milestones: mpsc::Receiver<Milestone>,
    started: Instant,
}

impl Running {
    fn start(
        config: Config,
        placements: &Placements,
        disk: Arc<FileDisk>,
        recovered: Recovered,
        listener: Listener,
    ) -> Result<Running, StartError> {
        let server = Arc::new(Server::new(placements.shards, placements.dedicated())?);
        let (sender, milestones) = mpsc::channel();
        stop_on_signals(sender.clone())?;
        let count = server.cores.len();
        let progress = Arc::new(Progress::new(count, recovered.bytes_to_load()));
        let background = Background::start(&disk, &server)?;
        let has_history = recovered.tail.zxid > 0;
        let introduction = Arc::new(Identity::new(recovered.superblock.cluster, has_history));
        let questions = questions::start(server.clone(), &config)?;
        let (commits, readers) = commit_ring(COMMIT_RING_SLOTS, count);
        let (up_ends, ups): (Vec<_>, Vec<_>) = (0..count).map(|_| byte_ring(SUBMIT_RING_BYTES)).unzip();
        let (downs, down_ends): (Vec<_>, Vec<_>) = (0..count).map(|_| slot_ring(DOWN_RING_SLOTS)).unzip();
        let milestone = sender.clone();
        let mut ends = Some(Ends {
            server: server.clone(),
            commits,
            ups,
            downs,
            disk: disk.clone(),
            background: background.clone(),
            introduction: introduction.clone(),
            milestones: milestone,
        });
        let (config, recovered) = (Arc::new(config), Arc::new(recovered));
        let mut cores = Vec::new();
        for (core, ((commits, up), downs)) in readers.into_iter().zip(up_ends).zip(down_ends).enumerate() {
            let links = ShardEnds {
                server: server.clone(),
                core,
                commits,
                downs,
                up,
                questions: questions.clone(),
                background: background.clone(),
            };
            let seed = CoreSeed {
                links,
                ends: if core == server.pipeline { ends.take() } else { None },
                disk: disk.clone(),
                recovered: recovered.clone(),
                config: config.clone(),
                progress: progress.clone(),
                milestones: sender.clone(),
            };
            cores.push(spawn(seed, placements.cores()[core])?);
        }
        let (backlog, alone) = (config.client.backlog, config.ensemble.is_none());
        let links = links_config(&config)?;
        Ok(Running { server, alone, links, introduction, listener, backlog, cores, progress, milestones, started: Instant::now() })
    }

    /// Runs until somebody asks it to stop.
    fn run(&mut self) -> Result<(), StartError> {
        let mut loading = self.server.cores.len();
        loop {
            let patience = if loading > 0 { PROGRESS_EVERY } else { Duration::MAX };
            match self.milestones.recv_timeout(patience) {
                Ok(Milestone::Loaded) => {
                    loading -= 1;
                    if loading == 0 {
                        self.begin()?;
                    }
                }
                Ok(Milestone::Serving) => self.serving()?,
                Ok(Milestone::Failed(error)) => return Err(error),
                Ok(Milestone::Stopping) => return Ok(()),
                Ok(Milestone::Settled) => unreachable!("nobody has asked it to stop"),
                Err(mpsc::RecvTimeoutError::Timeout) => eprintln!("falconer: loading data: {}", self.progress),
                Err(mpsc::RecvTimeoutError::Disconnected) => unreachable!("this thread's own sender is alive"),
            }
        }
    }

    /// Every core has its State: the log may be written, and other servers may be talked to. A member of an ensemble may
    /// have no leader for long: clients and operators find it there and are told.
    fn begin(&mut self) -> Result<(), StartError> {
        self.server.post_pipeline(PipelineMail::Begin);
        if let Some(config) = self.links.take() {
            let server = self.server.clone();
            let links = Links::start(config, self.introduction.clone(), move |link| server.post_pipeline(PipelineMail::Link(link)))?;
            self.server.post_pipeline(PipelineMail::Links(links));
            self.accept_clients()?;
        }
        Ok(())
    }

    /// Clients are served for the first time.
    fn serving(&self) -> Result<(), StartError> {
        if self.alone {
            self.accept_clients()?;
        }
        tracing::info!("started in {} ms", self.started.elapsed().as_millis());
        eprintln!("falconer: serving clients on {}", self.listener.address());
        Ok(())
    }

    fn accept_clients(&self) -> Result<(), StartError> {
        self.listener.listen(self.backlog)?;
        for core in &self.server.cores[..self.server.shards] {
            core.post(Mail::Serve(self.listener.fd()));
        }
        Ok(())
    }

    /// Nothing new is taken, what was proposed is written and answered, the log is marked complete, the threads end.
    fn stop(self) {
        self.server.post_all(|| Mail::Stop);
        let deadline = Instant::now() + SETTLE_WAIT;
        while let Ok(milestone) = self.milestones.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if matches!(milestone, Milestone::Settled) {
                break;
            }
        }
        self.server.post_all(|| Mail::Exit);
        for core in self.cores {
            // A core that panicked has aborted the process.
            let _ = core.join();
        }
    }
}

/// A link on which nothing is heard for so many election timeouts is closed.
const SILENT_TIMEOUTS: u64 = 5;

/// How to reach the others, if there are any.
fn links_config(config: &Config) -> Result<Option<LinksConfig>, StartError> {
    let Some(ensemble) = &config.ensemble else { return Ok(None) };
    let (host, port) = (ensemble.listen_host(), ensemble.own().peer_port);
    let unresolved = |error| StartError::Resolve { host: host.to_string(), error };
    let mut found = (host, port).to_socket_addrs().map_err(unresolved)?;
    let listen = found.next().ok_or_else(|| unresolved(io::ErrorKind::NotFound.into()))?;
    let peers = ensemble.peers().map(|peer| PeerAddress { server: peer.id, host: peer.host.clone(), port: peer.peer_port });
    Ok(Some(LinksConfig {
        server: config.server.id,
        incarnation: random()?,
        listen,
        peers: peers.collect(),
        secret: ensemble.secret.as_ref().map(|secret| Secret::new(secret.bytes())),
        silence_ms: config.replication.election_timeout_ms * SILENT_TIMEOUTS,
    }))
}

/// A thread that turns SIGTERM and SIGINT into a milestone. A second one ends the process at once.
fn stop_on_signals(milestones: mpsc::Sender<Milestone>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut received = signals.forever();
        received.next();
        // The starting thread is alive as long as the process.
        let _ = milestones.send(Milestone::Stopping);
        received.next();
        std::process::exit(1);
    })?;
    Ok(())
}
