//! Layers the sources over each other, remembers where each value came from, and checks what holds between them.
//! Refuses to print: warnings are handed back.

use super::ensemble::{self, Listed};
use super::error::{ConfigError, Place};
use super::secret::Secret;
use super::settings::{Given, SETTINGS, Setting};
use super::{Config, Pinning, Pipeline, toml_file, zoo};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Profiles that come with the program.
const PROFILES: [(&str, &str); 5] = [
    ("default", include_str!("../../tuning/default.toml")),
    ("throughput", include_str!("../../tuning/throughput.toml")),
    ("latency", include_str!("../../tuning/latency.toml")),
    ("small", include_str!("../../tuning/small.toml")),
    ("paranoid", include_str!("../../tuning/paranoid.toml")),
];

/// Where settings come from, weakest first.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The name of a built-in profile, or a TOML file.
    pub profile: Option<String>,
    /// TOML or a zoo.cfg: told apart by the ending `.toml`, else by whether a line opens a `[section]`.
    pub file: Option<PathBuf>,
    pub flags: Vec<Flag>,
}

/// A setting given on the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// As the user wrote it, `--client-port`.
    pub name: &'static str,
    /// The setting, `client.port`.
    pub key: &'static str,
    pub value: String,
}

/// What came out.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// One line each, for the operator.
    pub warnings: Vec<String>,
}

/// Reads and validates everything.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let file = match &sources.file {
        Some(path) => Some((path.as_path(), read(path)?)),
        None => None,
    };
    let zoo_cfg = file.as_ref().is_some_and(|(path, text)| !is_toml(path, text));
    let mut draft = Draft::new(if zoo_cfg { Config::zookeeper() } else { Config::falconer() });
    if let Some(profile) = &sources.profile {
        apply_profile(profile, &mut draft)?;
        draft.asked.clear();
    }
    match &file {
        Some((path, text)) if zoo_cfg => zoo::apply(text, path, &mut draft)?,
        Some((path, text)) => toml_file::apply(text, path, &mut draft)?,
        None => {}
    }
    for flag in &sources.flags {
        let setting = SETTINGS.iter().find(|s| s.key == flag.key).expect("flags name keys of the table");
        draft.set(setting, &Given::Plain(&flag.value), setting.key, &flag.value, Place::Flag(flag.name))?;
    }
    if let Some((path, _)) = file.as_ref().filter(|_| zoo_cfg && !draft.is_set("data.dir")) {
        return Err(ConfigError::Relation(format!("{}: dataDir is missing", path.display())));
    }
    draft.finish()
}

pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let bytes = std::fs::read(path).map_err(|error| ConfigError::Unreadable { file: path.to_owned(), error })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|&&b| b == b'\n').count();
        ConfigError::Syntax { place: Place::line(path, line), what: "not UTF-8 text".into() }
    })
}

fn is_toml(path: &Path, text: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml")) || text.lines().any(|line| line.trim_start().starts_with('['))
}

fn apply_profile(name: &str, draft: &mut Draft) -> Result<(), ConfigError> {
    if let Some((_, text)) = PROFILES.iter().find(|(known, _)| *known == name) {
        return toml_file::apply(text, Path::new(&format!("profile {name}")), draft);
    }
    let path = Path::new(name);
    if !path.is_file() {
        let known = PROFILES.map(|(known, _)| known).join(", ");
        return Err(ConfigError::NoProfile { name: name.into(), known });
    }
    toml_file::apply(&read(path)?, path, draft)
}

/// A configuration in the making.
pub(super) struct Draft {
    config: Config,
    set_at: BTreeMap<&'static str, Place>,
    /// What the file and the flags set, whatever a profile says.
    asked: BTreeSet<&'static str>,
    listed: Vec<Listed>,
    /// What `peerType` says: an observer or not.
    role: Option<(bool, Place)>,
    warnings: Vec<String>,
}

impl Draft {
    pub(super) fn new(config: Config) -> Draft {
        Draft { config, set_at: BTreeMap::new(), asked: BTreeSet::new(), listed: Vec::new(), role: None, warnings: Vec::new() }
    }

    /// Stores one value; `key` and `shown` are as the user wrote them.
    pub(super) fn set(
        &mut self,
        setting: &'static Setting,
        given: &Given<'_>,
        key: &str,
        shown: &str,
        place: Place,
    ) -> Result<(), ConfigError> {
        if !setting.set(&mut self.config, given) {
            let value = if setting.key == "digest_auth.super_digest" { "(not shown)" } else { shown };
            return Err(ConfigError::BadValue { place, key: key.into(), value: value.into(), allowed: setting.allowed() });
        }
        self.set_at.insert(setting.key, place);
        self.asked.insert(setting.key);
        Ok(())
    }

    /// Whether the file or a flag sets it.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.asked.contains(key)
    }

    pub(super) fn warn(&mut self, text: String) {
        self.warnings.push(text);
    }

    /// The servers that the file lists.
    pub(super) fn list(&mut self, listed: Vec<Listed>) {
        self.listed = listed;
    }

    /// The file says apart from the list what this server is.
    pub(super) fn expect_role(&mut self, observer: bool, place: Place) {
        self.role = Some((observer, place));
    }

    /// Finds out which server this is and who the others are, then all the rest.
    fn finish(mut self) -> Result<Loaded, ConfigError> {
        let said_at = self.find_id()?;
        match self.listed.len() {
            0 => {}
            1 => self.stand_alone(said_at)?,
            _ => self.join(said_at)?,
        }
        self.derive()
    }

    /// Derives what was left open and checks what must hold between settings. Looks at no file.
    pub(super) fn derive(mut self) -> Result<Loaded, ConfigError> {
        self.derive_timeouts()?;
        self.check_replication()?;
        self.count_threads()?;
        if self.config.data.log_dir.as_os_str().is_empty() {
            self.config.data.log_dir = self.config.data.dir.clone();
        }
        if !self.config.digest_auth.enabled && self.config.digest_auth.super_digest.is_some() {
            let what = format!("{} has no effect, the digest scheme is off", self.named("digest_auth.super_digest"));
            self.warn(what);
        }
        Ok(Loaded { config: self.config, warnings: self.warnings })
    }

    /// Flags and TOML, else the file `myid`. Returns where it stands, `None` for nowhere.
    fn find_id(&mut self) -> Result<Option<String>, ConfigError> {
        if self.is_set("server.id") {
            return Ok(Some(self.named("server.id")));
        }
        let file = self.config.data.dir.join("myid");
        let text = match std::fs::read_to_string(&file) {
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => return Ok(None),
            read => read.map_err(|error| ConfigError::Unreadable { file: file.clone(), error })?,
        };
        let bad = || ConfigError::BadValue {
            place: Place::line(&file, 1),
            key: "myid".into(),
            value: text.trim().replace('\n', " "),
            allowed: "0 to 254".into(),
        };
        self.config.server.id = text.trim().parse().ok().filter(|&id| id <= 254).ok_or_else(bad)?;
        Ok(Some(file.display().to_string()))
    }

    /// A server alone may be listed as the one member it is. Its number is there, unless a flag or TOML say another.
    fn stand_alone(&mut self, said_at: Option<String>) -> Result<(), ConfigError> {
        let Listed { place, server, .. } = self.listed.remove(0);
        if server.observer {
            let what = "the only server is an observer, which cannot run alone".into();
            return Err(ConfigError::Refused { place, what });
        }
        match said_at {
            Some(file) if !self.is_set("server.id") && server.id != self.config.server.id => {
                let what = format!("server.{} is the only server, but {file} says {}", server.id, self.config.server.id);
                return Err(ConfigError::Refused { place, what });
            }
            Some(_) => {}
            None => self.config.server.id = server.id,
        }
        self.take_client_end(&place, server.client_address.as_deref(), server.client_port)
    }

    /// One of several.
    fn join(&mut self, said_at: Option<String>) -> Result<(), ConfigError> {
        let listed = std::mem::take(&mut self.listed);
        let Some(said_at) = said_at else {
            let myid = self.config.data.dir.join("myid");
            let what = format!("which of these {} servers is this? Write its number into {}, or give --id", listed.len(), myid.display());
            return Err(ConfigError::Refused { place: listed[0].place.clone(), what });
        };
        let own = &listed[ensemble::find_own(&listed, self.config.server.id, &said_at)?];
        let (place, server) = (own.place.clone(), own.server.clone());
        self.take_client_end(&place, server.client_address.as_deref(), server.client_port)?;
        if let Some((observer, at)) = self.role.take()
            && observer != server.observer
        {
            self.warn(format!("{at}: peerType is not what the list says of server {} at {place}; the list decides", server.id));
        }
        let replication = &self.config.replication;
        let secret = match (&replication.peer_secret_file, self.set_at.get("replication.peer_secret_file")) {
            (Some(file), Some(place)) => Some(Secret::read(file, place)?),
            _ => None,
        };
        let ensemble = ensemble::settle(listed, server.id, replication.listen_on_all_addresses, secret)?;
        ensemble::warnings(&ensemble).into_iter().for_each(|text| self.warn(text));
        self.config.ensemble = Some(ensemble);
        Ok(())
    }

    /// The list of servers may say where this one's clients connect. Flags win, and the rest of the file must agree.
    fn take_client_end(&mut self, place: &Place, address: Option<&str>, port: Option<u16>) -> Result<(), ConfigError> {
        let Some(port) = port else { return Ok(()) };
        let from_flag = self.is_set("client.port") && matches!(self.set_at.get("client.port"), Some(Place::Flag(_)));
        if self.is_set("client.port") && !from_flag && self.config.client.port != port {
            let what = format!("client port {port} contradicts clientPort {}", self.config.client.port);
            return Err(ConfigError::Refused { place: place.clone(), what });
        }
        let port = (!from_flag).then(|| port.to_string());
        for (key, value) in [("client.port", port.as_deref()), ("client.address", address)] {
            let Some(value) = value else { continue };
            let setting = SETTINGS.iter().find(|s| s.key == key).expect("a key of the table");
            self.set(setting, &Given::Plain(value), "server.N", value, place.clone())?;
        }
        Ok(())
    }

    /// Who is heard too seldom counts as gone.
    fn check_replication(&self) -> Result<(), ConfigError> {
        let replication = &self.config.replication;
        let (beat, election) = (replication.heartbeat_ms, replication.election_timeout_ms);
        if beat * 3 > election {
            let (short, long) = (self.named("replication.heartbeat_ms"), self.named("replication.election_timeout_ms"));
            let what =
                format!("{short} = {beat} must be at most a third of {long} = {election}: one late heartbeat must not end a leadership");
            return Err(ConfigError::Relation(what));
        }
        if replication.leaderless_ms < 2 * election {
            let (short, long) = (self.named("replication.leaderless_ms"), self.named("replication.election_timeout_ms"));
            let what =
                format!("{short} = {} must be at least twice {long} = {election}: an election takes that long", replication.leaderless_ms);
            return Err(ConfigError::Relation(what));
        }
        Ok(())
    }

    fn derive_timeouts(&mut self) -> Result<(), ConfigError> {
        let session = &mut self.config.session;
        if session.timeout_ms_min == 0 {
            session.timeout_ms_min = session.tick_time_ms * 2;
        }
        if session.timeout_ms_max == 0 {
            session.timeout_ms_max = session.tick_time_ms * 20;
        }
        let (min, max) = (session.timeout_ms_min, session.timeout_ms_max);
        if min > max {
            let (shortest, longest) = (self.named("session.timeout_ms_min"), self.named("session.timeout_ms_max"));
            return Err(ConfigError::Relation(format!("{shortest} = {min} is above {longest} = {max}")));
        }
        Ok(())
    }

    /// An explicit list of cores says how many threads there are, or at least has room for them.
    fn count_threads(&mut self) -> Result<(), ConfigError> {
        let Pinning::Cpus(cpus) = &self.config.threads.pinning else { return Ok(()) };
        let pipeline = usize::from(self.config.threads.pipeline == Pipeline::Dedicated);
        let shards = self.config.threads.shards.unwrap_or(cpus.len().saturating_sub(pipeline).max(1));
        if shards + pipeline > cpus.len() {
            let what = format!("{} lists {} cores for {} threads", self.named("threads.pinning"), cpus.len(), shards + pipeline);
            return Err(ConfigError::Relation(what));
        }
        self.config.threads.shards = Some(shards);
        Ok(())
    }

    /// A setting with the place it came from, for messages.
    fn named(&self, key: &str) -> String {
        match self.set_at.get(key) {
            Some(place) => format!("{place}: {key}"),
            None => format!("{key} (by default)"),
        }
    }
}

/// The name that was probably meant: the same but for case, or at most two edits away, or the same last part.
pub(super) fn nearest(key: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let wanted = key.to_ascii_lowercase();
    let last = |name: &str| name.rsplit('.').next().map(str::to_ascii_lowercase);
    names
        .filter(|name| !name.ends_with('*'))
        .map(|name| {
            let distance = edits(&wanted, &name.to_ascii_lowercase());
            (if last(name) == last(&wanted) { distance.min(2) } else { distance }, name)
        })
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, name)| name)
}

/// Levenshtein distance; far more than any limit for long text, which is never a slip.
fn edits(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
