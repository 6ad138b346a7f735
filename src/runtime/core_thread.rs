//! One core's thread: hosted by a glommio executor for its name and place, it loads this core's State, builds the brains
//! and then belongs to the loop. Refuses to survive a panic: half a server is worse than none.

use super::core_loop::CoreLoop;
use super::files::FileDisk;
use super::pipeline::{Ends, Pipeline, Role};
use super::ring::{RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS, Ring};
use super::shard::{Shard, ShardEnds};
use super::start::{Milestone, StartError};
use crate::admin::fourletter;
use crate::config::{Config, EnsembleConfig};
use crate::log::recovery::Recovered;
use crate::log::{Journal, LogConfig};
use crate::pipeline::auth::AuthConfig;
use crate::pipeline::bounds::Bounds;
use crate::pipeline::node::{Node, NodeConfig, ReapConfig};
use crate::pipeline::prepare::PrepareConfig;
use crate::pipeline::replica::{Replica, ReplicaConfig};
use crate::tree::snapshot::Loader;
use crate::tree::{Applied, State, Want};
use crate::wire::batch::Batch;
use crate::zab::positions::Positions;
use crate::zab::quorum::{Ensemble, Voter};
use crate::zab::{Start, ZabConfig};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// glommio's own rings are used by nobody here: the smallest it takes.
const EXECUTOR_IO_BYTES: usize = 64 << 10;
const EXECUTOR_RING_DEPTH: usize = 128;
const EXECUTOR_PREEMPT: Duration = Duration::from_secs(3600);
/// Clients' signs of life and session clocks are handled this often at most and at least; in between it is an eighth of
/// the tick time.
const TICK_MS: std::ops::RangeInclusive<u64> = 10..=250;

/// How much of the data each core has loaded.
pub struct Progress {
    done: Vec<AtomicU64>,
    total: u64,
}

impl Progress {
    /// Every one of `cores` loads `total` bytes.
    pub fn new(cores: usize, total: u64) -> Progress {
        Progress { done: (0..cores).map(|_| AtomicU64::new(0)).collect(), total }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = self.done.iter().map(|done| done.load(Ordering::Relaxed)).min().unwrap_or(0);
        write!(f, "{} of {} MiB", least >> 20, self.total >> 20)
    }
}

/// Everything a core's thread starts from.
pub struct CoreSeed {
    pub links: ShardEnds,
    /// On the pipeline's core.
    pub ends: Option<Ends>,
    pub disk: Arc<FileDisk>,
    pub recovered: Arc<Recovered>,
    pub config: Arc<Config>,
    pub progress: Arc<Progress>,
    pub milestones: mpsc::Sender<Milestone>,
}

/// Starts the thread, on core `cpu` if given.
pub fn spawn(seed: CoreSeed, cpu: Option<usize>) -> Result<ExecutorJoinHandle<()>, StartError> {
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    LocalExecutorBuilder::new(placement)
        .name(&format!("core-{}", seed.links.core))
        .io_memory(EXECUTOR_IO_BYTES)
        .ring_depth(EXECUTOR_RING_DEPTH)
        .preempt_timer(EXECUTOR_PREEMPT)
        .spawn(move || async move { run(seed) })
        .map_err(|error| StartError::Thread(error.to_string()))
}

/// Ends the process when a core panics, also in builds that unwind.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn run(seed: CoreSeed) {
    let _abort = AbortOnPanic;
    let milestones = seed.milestones.clone();
    match build(seed) {
        Ok(core) => {
            // The starting thread waits for this, unless another core has failed.
            let _ = milestones.send(Milestone::Loaded);
            core.run();
        }
        Err(error) => {
            // As above.
            let _ = milestones.send(Milestone::Failed(error));
        }
    }
}

fn build(seed: CoreSeed) -> Result<CoreLoop, StartError> {
    let (server, core) = (seed.links.server.clone(), seed.links.core);
    let ring = Ring::new(server.cores[core].bell.clone(), RECEIVE_BUFFERS, RECEIVE_BUFFER_BYTES)?;
    server.cores[core].set_ring(ring.fd());
    let state = load(&seed)?;
    let CoreSeed { links, ends, disk, recovered, config, .. } = seed;
    let tick_ms = (u64::from(config.session.tick_time_ms) / 8).clamp(*TICK_MS.start(), *TICK_MS.end());
    let boot = recovered.run();
    let pipeline = ends.map(|ends| -> Result<Pipeline, StartError> {
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).expect("the kernel has random numbers");
        let seed = u128::from_le_bytes(seed);
        let node_config = node_config(&config, &recovered, server.cores.len(), seed as u64);
        let node = Node::new(node_config, start(&disk, &recovered)?, server.now().ms);
        let journal = Journal::new(&recovered, log_config(&config), seed);
        Ok(Pipeline::new(ends, node, journal, (boot, config.server.id), tick_ms, role(&config)))
    });
    let pipeline = pipeline.transpose()?;
    let replica = Replica::new(replica_config(&config, boot, core, server.shards), state);
    let loaded = recovered.positions().iter().find(|p| p.zxid == recovered.committed);
    let loaded = *loaded.expect("what is committed is a batch end of the log");
    let shard = Shard::new(links, replica, loaded, tick_ms, config.client.requests_outstanding_max > 0);
    Ok(CoreLoop::new(server, core, ring, shard, pipeline))
}

/// The State of what is known to be committed. Every core loads its own; the pipeline's carries the digest.
fn load(seed: &CoreSeed) -> Result<State, StartError> {
    let CoreSeed { links, ends, disk, recovered, progress, .. } = seed;
    let done = &progress.done[links.core];
    let report = |bytes: u64, _total: u64| done.store(bytes, Ordering::Relaxed);
    let with_digest = ends.is_some();
    let mut state = State::new(with_digest);
    if recovered.snapshot.is_some() {
        let mut loader = Loader::new(with_digest);
        let mut bad = None;
        let push = |chunk: &[u8]| bad = bad.take().or_else(|| loader.push(chunk).err());
        recovered.load_snapshot(&**disk, push, report)?;
        if let Some(bad) = bad {
            return Err(StartError::Snapshot(bad));
        }
        state = loader.finish().map_err(StartError::Snapshot)?;
    }
    recovered.replay(&**disk, recovered.committed, |batch| replay(&mut state, batch), report)?;
    Ok(state)
}

/// What the medium says. What is not known to be committed is published once an epoch is established.
fn start(disk: &FileDisk, recovered: &Recovered) -> Result<Start, StartError> {
    let pending = recovered.pending(disk, recovered.committed)?;
    Ok(Start {
        promise: recovered.promise(),
        positions: Positions::new(recovered.positions().iter().copied()),
        committed: recovered.committed,
        pending: pending.into_iter().map(Arc::new).collect(),
        snapshot: recovered.snapshot,
    })
}

fn replay(state: &mut State, batch: &Batch) {
    let mut applied = Applied::default();
    for txn in batch.txns() {
        state.apply(txn, &mut applied, Want { results: false, paths: false });
    }
}

// ---- settings, as each brain wants them

fn auth_config(config: &Config) -> AuthConfig {
    AuthConfig {
        skip_acl: config.features.skip_acl,
        super_digest: config.digest_auth.super_digest.clone(),
        digest_enabled: config.digest_auth.enabled,
        acl_entries_max: config.limits.acl_entries_max as usize,
        acl_bytes_max: config.limits.acl_bytes_max as usize,
    }
}

fn role(config: &Config) -> Role {
    match &config.ensemble {
        None => Role::Alone,
        Some(ensemble) if ensemble.own().observer => Role::Observer,
        Some(_) => Role::Voter,
    }
}

fn ensemble(config: &Config) -> Ensemble {
    let Some(ensemble) = &config.ensemble else { return Ensemble::alone(config.server.id) };
    let (observers, voters): (Vec<_>, Vec<_>) = ensemble.servers.iter().partition(|server| server.observer);
    let voters = voters.iter().map(|server| Voter { server: server.id, weight: server.weight, group: server.group }).collect();
    Ensemble::new(voters, observers.iter().map(|server| server.id).collect())
}

fn zab_config(config: &Config, seed: u64) -> ZabConfig {
    let replication = &config.replication;
    ZabConfig {
        election_timeout_ms: replication.election_timeout_ms,
        heartbeat_ms: replication.heartbeat_ms,
        disk_stall_ms: replication.disk_stall_ms,
        join_stall_ms: config.ticks_ms(replication.init_limit_ticks),
        ack_stall_ms: config.ticks_ms(replication.sync_limit_ticks),
        seed,
        ..ZabConfig::new(config.server.id, ensemble(config))
    }
}

fn node_config(config: &Config, recovered: &Recovered, cores: usize, seed: u64) -> NodeConfig {
    NodeConfig {
        boot: recovered.run(),
        tick_ms: u64::from(config.session.tick_time_ms),
        leaderless_ms: config.replication.leaderless_ms,
        zab: zab_config(config, seed),
        prepare: PrepareConfig {
            auth: auth_config(config),
            extended_types_enabled: config.features.extended_types,
            enforce_quota: config.features.enforce_quota,
            reconfig_enabled: config.features.reconfig,
        },
        reap: ReapConfig {
            interval_ms: config.container.check_interval_ms,
            per_minute_max: config.container.deletions_per_minute_max as usize,
            never_used_ms: config.container.never_used_ms as i64,
        },
        ..NodeConfig::alone(config.server.id, cores)
    }
}

/// What one of so many shards may hold: what is for the whole server is divided, as connections are.
fn bounds(config: &Config, shards: usize) -> Bounds {
    let limits = &config.limits;
    Bounds {
        frame_bytes_max: config.client.frame_bytes_max,
        set_watches_bytes_max: limits.set_watches_bytes_max as usize,
        requests_per_connection_max: limits.requests_per_connection_max as usize,
        held_bytes_max: limits.held_bytes_max as usize,
        output_bytes_max: limits.output_bytes_max as usize,
        event_bytes_max: limits.event_bytes_max as usize,
        identities_bytes_max: limits.identities_bytes_max as usize,
        unparsed_bytes_max: limits.unparsed_bytes_max as usize / shards,
        queued_bytes_max: limits.queued_bytes_max as usize / shards,
        watches_per_connection_max: limits.watches_per_connection_max as usize,
        watches_max: limits.watches_per_shard_max as usize,
        sessions_max: limits.sessions_max as usize,
    }
}

fn replica_config(config: &Config, boot: u32, core: usize, shards: usize) -> ReplicaConfig {
    ReplicaConfig {
        server: config.server.id,
        shard: core as u16,
        boot,
        auth: auth_config(config),
        session_timeout_ms_min: config.session.timeout_ms_min as i32,
        session_timeout_ms_max: config.session.timeout_ms_max as i32,
        connections_per_address_max: config.client.connections_per_address_max as usize,
        loopback_exempt: !config.client.limit_loopback,
        connections_max: config.client.connections_max as usize,
        bounds: bounds(config, shards),
        handshake_timeout_ms: config.limits.handshake_timeout_ms,
        // A word that is refused anyway is not waited for.
        word_argument: match config.admin.four_letter_words.allows(*b"stmk") {
            true => fourletter::argument_bytes,
            false => |word| fourletter::argument_bytes(word).map(|_| 0),
        },
        requests_outstanding_max: u64::from(config.client.requests_outstanding_max),
        alone: config.ensemble.is_none(),
        linearizable_reads: config.replication.linearizable_reads,
        membership: config.ensemble.as_ref().map_or(String::new(), EnsembleConfig::membership),
    }
}

/// ZooKeeper's limit in bytes is a ceiling for ours, which follows the size of the last snapshot.
fn log_config(config: &Config) -> LogConfig {
    let defaults = LogConfig::default();
    let payload_bytes = match config.data.snapshot_log_kb {
        0 => defaults.snapshot_payload_bytes,
        kib => defaults.snapshot_payload_bytes.min(kib.saturating_mul(1024)),
    };
    LogConfig {
        snapshot_payload_bytes: payload_bytes,
        snapshot_txns: u64::from(config.data.snapshot_txns),
        snapshots_retained: config.data.snapshots_retained as usize,
        ..defaults
    }
}
