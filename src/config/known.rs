//! ZooKeeper's keys that change nothing here yet, each with the reason: a zoo.cfg that carries them still works, and
//! the operator is told. A name that ends in `*` stands for everything that starts so.
//! Refuses to hold what has an effect (`settings`), and what must not be ignored (`zoo` refuses that).

const SILENCE: &str = "replication.election_timeout_ms says how long silence is borne";
const LINKS: &str = "links between servers are made and kept in another way";
const ADDRESS: &str = "the first address of a server is used";
const FED: &str = "servers that are behind are fed from the log";
const TLS: &str = "there is no TLS yet";
const AUTH: &str = "this way to authenticate is not there yet, nobody is asked for it";
const HTTP: &str = "there is no HTTP endpoint yet";
const AUDIT: &str = "there is no audit log yet";
const THROTTLE: &str = "back-pressure is by bytes and requests in progress";
const LATER: &str = "not there yet";
const RUNTIME: &str = "it tunes a part of the Java server that has no counterpart";
const SEGMENTS: &str = "the log is kept in recycled segments of 64 MiB";
const DURABLE: &str = "every write is on disk before it is acknowledged";
const GROUPED: &str = "writes are grouped without a timer";
const FORMAT: &str = "the files have another format";

/// Name and reason.
static KNOWN: &[(&str, &str)] = &[
    ("connectToLearnerMasterLimit", SILENCE),
    ("standaloneEnabled", "a server alone is an ensemble of one"),
    ("electionAlg", "there is one way to elect a leader"),
    ("observerMasterPort", "observers are fed by the leader"),
    ("syncEnabled", "observers keep a log like everybody"),
    ("oraclePath", LATER),
    ("localSessionsEnabled", "all sessions are global"),
    ("localSessionsUpgradingEnabled", "all sessions are global"),
    ("commitLogCount", FED),
    ("snapshotSizeFactor", FED),
    ("cnxTimeout", LINKS),
    ("quorumCnxnTimeoutMs", LINKS),
    ("electionPortBindRetry", LINKS),
    ("tcpKeepAlive", LINKS),
    ("fastleader.minNotificationInterval", LINKS),
    ("fastleader.maxNotificationInterval", LINKS),
    ("leaderConnectDelayDuringRetryMs", LINKS),
    ("leaderServes", "a leader serves clients too"),
    ("leader.*", LINKS),
    ("learner.*", LINKS),
    ("follower.*", LINKS),
    ("observer.*", LINKS),
    ("observerMaster.*", LINKS),
    ("maxConcurrentSnapSyncs", FED),
    ("maxConcurrentDiffSyncs", FED),
    ("multiAddress.enabled", ADDRESS),
    ("multiAddress.reachabilityCheckEnabled", ADDRESS),
    ("multiAddress.reachabilityCheckTimeoutMs", ADDRESS),
    ("quorum.auth.*", "servers know each other by their peerSecretFile"),
    ("quorum.cnxn.threads.size", RUNTIME),
    ("ensembleAuthName", LATER),
    ("forward_learner_requests_to_commit_processor_disabled", RUNTIME),
    ("secureClientPort", TLS),
    ("secureClientPortAddress", TLS),
    ("client.portUnification", TLS),
    ("client.certReload", TLS),
    ("ssl.*", TLS),
    ("sslQuorum", TLS),
    ("sslQuorumReloadCertFiles", TLS),
    ("portUnification", TLS),
    ("fips-mode", TLS),
    ("X509AuthenticationProvider.superUser", TLS),
    ("authProvider.*", AUTH),
    ("superUser", AUTH),
    ("superUser.*", AUTH),
    ("letAnySaslUserDoX", AUTH),
    ("allowSaslFailedClients", AUTH),
    ("sessionRequireClientSASLAuth", AUTH),
    ("requireClientAuthScheme", AUTH),
    ("enforce.auth.enabled", AUTH),
    ("enforce.auth.schemes", AUTH),
    ("jaasLoginRenew", AUTH),
    ("kerberos.*", AUTH),
    ("security.auth_to_local", AUTH),
    ("IPAuthenticationProvider.usexforwardedfor", HTTP),
    ("admin.*", HTTP),
    ("metricsProvider.*", HTTP),
    ("audit.enable", AUDIT),
    ("audit.impl.class", AUDIT),
    ("connection_throttle_*", THROTTLE),
    ("connectionMaxTokens", THROTTLE),
    ("connectionTokenFillTime", THROTTLE),
    ("connectionTokenFillCount", THROTTLE),
    ("connectionFreezeTime", THROTTLE),
    ("connectionDropIncrease", THROTTLE),
    ("connectionDropDecrease", THROTTLE),
    ("connectionDecreaseRatio", THROTTLE),
    ("request_throttle_*", THROTTLE),
    ("request_stale_*", THROTTLE),
    ("requestThrottleLimit", THROTTLE),
    ("requestThrottleStallTime", THROTTLE),
    ("requestThrottleDropStale", THROTTLE),
    ("requestStaleLatencyCheck", THROTTLE),
    ("requestStaleConnectionCheck", THROTTLE),
    ("throttled_op_wait_time", THROTTLE),
    ("largeRequestMaxBytes", THROTTLE),
    ("largeRequestThreshold", THROTTLE),
    ("jute.maxbuffer.extrasize", "transactions have a bound of their own"),
    ("preAllocSize", SEGMENTS),
    ("txnLogSizeLimitInKb", SEGMENTS),
    ("autopurge.purgeInterval", "old snapshots and log go whenever a new snapshot is complete"),
    ("forceSync", DURABLE),
    ("fsync.warningthresholdms", LATER),
    ("flushDelay", GROUPED),
    ("maxWriteQueuePollTime", GROUPED),
    ("maxBatchSize", GROUPED),
    ("snapshot.compression.method", FORMAT),
    ("snapshot.trust.empty", FORMAT),
    ("serializeLastProcessedZxid.enabled", FORMAT),
    ("digest.enabled", FORMAT),
    ("closeSessionTxn.enabled", FORMAT),
    ("datadir.autocreate", LATER),
    ("db.autocreate", LATER),
    ("readonlymode.enabled", LATER),
    ("emulate353TTLNodes", LATER),
    ("enableEagerACLCheck", LATER),
    ("clientTcpKeepAlive", LATER),
    ("maxResponseCacheSize", RUNTIME),
    ("maxGetChildrenResponseCacheSize", RUNTIME),
    ("nio.*", RUNTIME),
    ("netty.*", RUNTIME),
    ("commitProcessor.*", RUNTIME),
    ("serverCnxnFactory", RUNTIME),
    ("watchManagerName", RUNTIME),
    ("watcherCleanThreadsNum", RUNTIME),
    ("watcherCleanIntervalInSeconds", RUNTIME),
    ("watcherCleanThreshold", RUNTIME),
    ("maxInProcessingDeadWatchers", RUNTIME),
    ("bitHashCacheSize", RUNTIME),
    ("messageTracker.*", RUNTIME),
    ("jvm.pause.*", RUNTIME),
    ("jmx.*", RUNTIME),
    ("pathStats.*", RUNTIME),
    ("intBufferStartingSizeBytes", RUNTIME),
];

/// Why a key of ZooKeeper's (without the prefix `zookeeper.`) has no effect; `None`: it is not one of these.
pub(super) fn without_effect(key: &str) -> Option<&'static str> {
    let matches = |name: &str| match name.strip_suffix('*') {
        Some(start) => key.len() > start.len() && key.starts_with(start),
        None => key == name,
    };
    KNOWN.iter().find(|(name, _)| matches(name)).map(|&(_, why)| why)
}

/// All names, for suggestions.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|&(name, _)| name)
}
