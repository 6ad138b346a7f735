//! Workloads as TOML: the built-in ones, a word each, and those that users write. A spec says what connections do; how
//! many there are, how long and at what rate are defaults that flags change. Refuses unknown keys and what cannot be run.

use crate::access::{Access, Entry};
use crate::content::Sizes;
use crate::tally::Op;
use serde::Deserialize;
use std::path::Path;

/// What one operation of a mix does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doing {
    /// Reads a key.
    Get,
    /// Reads a key's Stat.
    Exists,
    /// Lists a directory of keys.
    List,
    /// Asks the server to catch up with the leader.
    Sync,
    /// Writes a key that belongs to the connection.
    Set,
    /// Creates a node of the connection's own.
    Create,
    /// Deletes the oldest node of the connection's own.
    Delete,
    /// Creates and deletes in turn.
    Churn,
    /// Several sets in one transaction.
    MultiSet,
    /// Several creates in one transaction.
    MultiCreate,
    /// Several deletes in one transaction.
    MultiDelete,
    /// Several reads in one request.
    MultiGet,
}

impl Doing {
    pub fn op(self) -> Op {
        match self {
            Doing::Get => Op::Get,
            Doing::Exists => Op::Exists,
            Doing::List => Op::List,
            Doing::Sync => Op::Sync,
            Doing::Set => Op::Set,
            Doing::Create | Doing::Churn => Op::Create,
            Doing::Delete => Op::Delete,
            Doing::MultiSet | Doing::MultiCreate | Doing::MultiDelete => Op::Multi,
            Doing::MultiGet => Op::MultiRead,
        }
    }

    /// Whether it needs keys that exist: some at all, or some for every connection.
    fn needs_keys(self) -> bool {
        matches!(self, Doing::Get | Doing::Exists | Doing::List | Doing::Set | Doing::MultiSet | Doing::MultiGet)
    }

    fn is_multi(self) -> bool {
        matches!(self, Doing::MultiSet | Doing::MultiCreate | Doing::MultiDelete | Doing::MultiGet)
    }
}

/// One entry of a mix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    #[serde(rename = "do")]
    pub doing: Doing,
    #[serde(default = "one")]
    pub weight: u32,
    /// Operations of a multi, from the first number to the second.
    #[serde(default = "one_to_one")]
    pub ops: [u32; 2],
    /// Nodes that are created vanish with their session.
    #[serde(default)]
    pub ephemeral: bool,
    /// The server numbers the nodes, all in one directory.
    #[serde(default)]
    pub sequential: bool,
}

fn one() -> u32 {
    1
}

fn one_to_one() -> [u32; 2] {
    [1, 1]
}

/// Which keys are used how often.
#[derive(Clone, Copy, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pick {
    #[default]
    Uniform,
    /// The same key always (of each thread).
    One,
    /// Few keys often, with this exponent (0.99 is usual).
    Zipf(f64),
}

/// What the connections do, if it is more than a mix of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    #[default]
    Mix,
    /// Nothing: sessions that stay alive.
    Idle,
    /// Takes locks and gives them back.
    Lock,
    /// Puts items into queues and takes them out.
    Queue,
    /// Writes keys that others watch.
    Registry,
    /// Closes sessions and opens others.
    Storm,
}

/// Watches that each connection of a mix keeps, by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchCounts {
    /// Keys, one shot, set by reading them.
    pub data: u32,
    /// Keys, for good.
    pub persistent: u32,
    /// Directories in which another connection creates, one shot, set by listing them.
    pub child: u32,
    /// Nodes that another connection is about to create, one shot.
    pub exist: u32,
    /// Directories in which another connection creates, and all below them, for good.
    pub recursive: u32,
}

impl WatchCounts {
    fn of_keys(self) -> u32 {
        self.data + self.persistent
    }

    fn of_neighbours(self) -> u32 {
        self.child + self.exist + self.recursive
    }
}

/// A workload.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Spec {
    /// One line for `falconer-loadgen list`.
    pub about: String,
    pub recipe: Recipe,
    pub connections: u32,
    /// Operations that each connection has under way.
    pub outstanding: u32,
    pub size: Sizes,
    /// Nodes that exist before the run.
    pub keys: u32,
    pub keys_per_directory: Sizes,
    /// Bytes of the names of keys and created nodes, at least as many as their number needs.
    pub name: Sizes,
    pub pick: Pick,
    /// Nodes of each connection's own that exist before the run.
    pub population: u32,
    pub operation: Vec<Operation>,
    pub watch: WatchCounts,
    /// Of keys and of the nodes that a mix creates; none: open to all.
    pub acl: Vec<Entry>,
    /// USER:PASSWORD with which every session authenticates (scheme digest).
    pub auth: Option<String>,
    /// Locks, or queues.
    pub lines: u32,
    /// Keys that each connection of a registry watches.
    pub watches: u32,
    /// All connections are dropped and taken up again this often; 0: never.
    pub herd_ms: u32,
}

impl Default for Spec {
    fn default() -> Self {
        Spec {
            about: String::new(),
            recipe: Recipe::Mix,
            connections: 50,
            outstanding: 20,
            size: Sizes::Fixed(100),
            keys: 0,
            keys_per_directory: Sizes::Fixed(1000),
            name: Sizes::Fixed(0),
            pick: Pick::Uniform,
            population: 0,
            operation: Vec::new(),
            watch: WatchCounts::default(),
            acl: Vec::new(),
            auth: None,
            lines: 1,
            watches: 10,
            herd_ms: 0,
        }
    }
}

/// Name and text of built-in workloads.
macro_rules! words {
    ($($word:literal)*) => { &[$(($word, include_str!(concat!("../workloads/", $word, ".toml")))),*] };
}

/// The words, in the order in which `list` shows them.
const WORDS: &[(&str, &str)] = words![
    "mixed"
    "read"
    "write"
    "create"
    "churn"
    "listing"
    "multi"
    "hot-key"
    "large"
    "paper"
    "lock"
    "queue"
    "registry"
    "watches"
    "storm"
    "restart-herd"
    "idle"
    "raftkeeper-create"
    "raftkeeper-mixed"
    "clickhouse-write"
    "clickhouse-churn"
    "clickhouse-read"
    "clickhouse-list"
    "clickhouse-hot"
    "clickhouse-multi-large"
    "clickhouse-write-multi"
    "clickhouse-read-multi"
    "clickhouse-large"
    "clickhouse-prod"
];

impl Spec {
    /// The names of the built-in workloads.
    pub fn words() -> impl Iterator<Item = &'static str> {
        WORDS.iter().map(|(word, _)| *word)
    }

    /// The text of a built-in workload.
    pub fn text(word: &str) -> Option<&'static str> {
        WORDS.iter().find(|(known, _)| *known == word).map(|(_, text)| *text)
    }

    /// The workload that a word or the name of a TOML file stands for, with its short name.
    pub fn find(word: &str) -> Result<(String, Spec), String> {
        if let Some(text) = Spec::text(word) {
            return Ok((word.into(), Spec::parse(text).expect("the built-in workloads are right")));
        }
        let path = Path::new(word);
        if !path.is_file() {
            return Err(format!("no workload and no file {word:?}; `falconer-loadgen list` shows the workloads"));
        }
        let text = std::fs::read_to_string(path).map_err(|error| format!("{word}: {error}"))?;
        let spec = Spec::parse(&text).map_err(|error| format!("{word}: {error}"))?;
        let name = path.file_stem().map_or(word.into(), |stem| stem.to_string_lossy().into_owned());
        Ok((name, spec))
    }

    fn parse(text: &str) -> Result<Spec, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// What it cannot be run with.
    pub fn validate(&self) -> Result<(), String> {
        self.size.validate()?;
        let in_range = |name: &str, value: u32, min: u32, max: u32| match (min..=max).contains(&value) {
            true => Ok(()),
            false => Err(format!("{name} {value}: {min} to {max}")),
        };
        in_range("connections", self.connections, 1, 1_000_000)?;
        in_range("outstanding", self.outstanding, 1, 1_000_000)?;
        in_range("keys", self.keys, 0, 100_000_000)?;
        self.keys_per_directory.validate().map_err(|error| format!("keys-per-directory: {error}"))?;
        in_range("keys-per-directory", self.keys_per_directory.max() as u32, 1, 1_000_000)?;
        self.name.validate().map_err(|error| format!("name: {error}"))?;
        in_range("name", self.name.max() as u32, 0, 1000)?;
        Access::new(&self.acl)?;
        if self.auth.as_ref().is_some_and(|auth| !auth.contains(':')) {
            return Err("auth: wanted: USER:PASSWORD".into());
        }
        in_range("population", self.population, 0, 1_000_000)?;
        in_range("lines", self.lines, 1, 100_000)?;
        in_range("watches", self.watches, 0, 100_000)?;
        if self.herd_ms > 0 && self.recipe != Recipe::Mix {
            return Err("herd-ms: only for mixes".into());
        }
        if let Pick::Zipf(skew) = self.pick
            && (skew <= 0.0 || skew > 5.0 || skew == 1.0)
        {
            return Err(format!("zipf {skew}: above 0, at most 5, and not 1"));
        }
        match self.recipe {
            Recipe::Mix => self.validate_mix(),
            Recipe::Lock if self.outstanding > 1 => Err("lock: outstanding 1 only: a connection waits for one lock at a time".into()),
            Recipe::Registry if self.keys < self.connections => {
                Err(format!("{} keys for {} connections: every connection writes keys of its own", self.keys, self.connections))
            }
            Recipe::Idle | Recipe::Lock | Recipe::Queue | Recipe::Registry | Recipe::Storm => Ok(()),
        }
    }

    /// Whether each of `threads` has enough keys and connections for its watches: none is told of the same change twice.
    pub fn validate_watches(&self, threads: u32) -> Result<(), String> {
        let (watch, keys, connections) = (self.watch, self.keys / threads, self.connections / threads);
        let creates = |operation: &Operation| matches!(operation.doing, Doing::Create | Doing::Churn | Doing::MultiCreate);
        match () {
            () if watch == WatchCounts::default() => Ok(()),
            () if self.recipe != Recipe::Mix => Err("watch: only for mixes; the recipes set their own".into()),
            () if watch.of_keys() > keys => Err(format!("watch: {} keys for each connection, and a thread has {keys}", watch.of_keys())),
            () if watch.of_neighbours() >= connections.max(1) => {
                let wanted = watch.of_neighbours();
                Err(format!("watch: {wanted} other connections' directories, and a thread has {connections} connections"))
            }
            () if watch.of_neighbours() > 0 && !self.operation.iter().any(|op| creates(op) && !op.sequential) => {
                Err("watch: child, exist and recursive need an operation that creates (and not sequential ones)".into())
            }
            () => Ok(()),
        }
    }

    fn validate_mix(&self) -> Result<(), String> {
        if self.operation.iter().map(|operation| u64::from(operation.weight)).sum::<u64>() == 0 {
            return Err("no operation has a weight".into());
        }
        for operation in &self.operation {
            let [first, last] = operation.ops;
            if first == 0 || first > last || last > 10_000 || (last > 1 && !operation.doing.is_multi()) {
                return Err(format!("{:?}: ops [{first}, {last}]: 1 to 10000, and only for multis", operation.doing));
            }
            let creates = matches!(operation.doing, Doing::Create | Doing::Churn);
            if (operation.ephemeral || operation.sequential) && !creates {
                return Err(format!("{:?}: only `create` and `churn` can be ephemeral or sequential", operation.doing));
            }
            if operation.ephemeral && self.population > 0 {
                return Err("a population that exists before the run cannot be ephemeral".into());
            }
            if operation.doing.needs_keys() && self.keys < self.connections {
                let (keys, connections) = (self.keys, self.connections);
                return Err(format!("{keys} keys for {connections} connections: every connection has keys of its own"));
            }
        }
        let kinds: Vec<bool> = self.operation.iter().filter(|op| op.doing.op() == Op::Create).map(|op| op.ephemeral).collect();
        match kinds.windows(2).all(|pair| pair[0] == pair[1]) {
            true => Ok(()),
            false => Err("either all creates are ephemeral or none".into()),
        }
    }

    /// How many directories of sequential nodes there are.
    pub fn line_count(&self) -> u32 {
        match self.recipe {
            Recipe::Lock | Recipe::Queue => self.lines,
            _ => u32::from(self.operation.iter().any(|operation| operation.sequential)),
        }
    }

    /// Whether the connections create nodes of their own.
    pub fn has_own_nodes(&self) -> bool {
        let own = [Doing::Create, Doing::Delete, Doing::Churn, Doing::MultiCreate, Doing::MultiDelete];
        self.population > 0 || self.operation.iter().any(|operation| own.contains(&operation.doing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_can_be_run_and_says_what_it_is() {
        for word in Spec::words() {
            let (name, spec) = Spec::find(word).unwrap();
            assert_eq!(name, word);
            assert_eq!(spec.validate(), Ok(()), "{word}");
            assert!(!spec.about.is_empty() && spec.about.len() <= 90, "{word}: {}", spec.about);
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let refused = |text: &str| Spec::parse(text).and_then(|spec| spec.validate()).unwrap_err();
        assert!(refused("nonsense = 1").contains("nonsense"));
        assert!(refused("keys = 10").contains("no operation"));
        assert!(refused("keys = 10\n[[operation]]\ndo = 'get'").contains("every connection"));
        assert!(refused("keys = 100\n[[operation]]\ndo = 'get'\nops = [2, 3]").contains("only for multis"));
        assert!(refused("keys = 100\n[[operation]]\ndo = 'get'\nephemeral = true").contains("can be ephemeral"));
        assert!(refused("acl = [{ perms = 'q', scheme = 'world' }]").contains("cdrwa"));
        assert!(refused("auth = 'me'").contains("USER:PASSWORD"));
        assert!(refused("keys-per-directory = 0").contains("keys-per-directory"));
        let watches = |text: &str, threads| Spec::parse(text).unwrap().validate_watches(threads);
        let churn = "connections = 4\nkeys = 10\n[watch]\nchild = 2\ndata = 3\n[[operation]]\ndo = 'churn'";
        assert_eq!(watches(churn, 1), Ok(()));
        assert!(watches(churn, 2).unwrap_err().contains("2 connections") && watches(churn, 4).unwrap_err().contains("3 keys"));
        assert!(watches("keys = 100\n[watch]\nchild = 1\n[[operation]]\ndo = 'get'", 1).unwrap_err().contains("creates"));
        assert!(watches("recipe = 'idle'\n[watch]\ndata = 1", 1).unwrap_err().contains("only for mixes"));
        assert!(refused("size = [9, 8]\n[[operation]]\ndo = 'create'").contains("size"));
        assert!(refused("pick = { zipf = 1.0 }\n[[operation]]\ndo = 'create'").contains("zipf"));
        let mixed = "[[operation]]\ndo = 'create'\n[[operation]]\ndo = 'churn'\nephemeral = true";
        assert!(refused(mixed).contains("all creates"));
    }
}
