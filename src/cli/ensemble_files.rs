//! The directory of a local ensemble: for every server a directory with its number, in it `falconer.toml` and `data`.
//! A configuration is written once and then belongs to the user. Refuses to start something else than what is there.

use super::ensemble::Ensemble;
use crate::config::{self, Sources};
use std::fs;
use std::path::{Path, PathBuf};

/// Ports between servers lie so far above those for clients.
const PEER_PORTS: u16 = 100;

/// One server of a local ensemble.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub id: u16,
    pub observer: bool,
    pub client_port: u16,
    pub peer_port: u16,
    pub directory: PathBuf,
}

impl Member {
    /// What `falconer` is started with.
    pub fn arguments(&self) -> Vec<PathBuf> {
        vec!["serve".into(), self.file(), "--data-dir".into(), self.directory.join("data")]
    }

    /// The same for a person.
    pub fn command_line(&self) -> String {
        let words: Vec<String> = self.arguments().iter().map(|word| word.display().to_string()).collect();
        format!("falconer {}", words.join(" "))
    }

    fn file(&self) -> PathBuf {
        self.directory.join("falconer.toml")
    }
}

/// What the arguments ask for.
#[derive(Debug)]
pub struct Plan {
    servers: u16,
    observers: u16,
    base_port: u16,
    shards: u16,
}

impl Plan {
    pub fn of(arguments: &Ensemble) -> Result<Plan, String> {
        let Ensemble { servers, observers, base_port, shards, .. } = *arguments;
        if servers + observers >= PEER_PORTS || base_port.checked_add(PEER_PORTS + servers + observers).is_none() {
            return Err(format!("--base-port {base_port} leaves no room for the ports of {} servers", servers + observers));
        }
        Ok(Plan { servers, observers, base_port, shards })
    }

    /// The servers below `root`: those that are there, else new ones.
    pub fn write(&self, root: &Path) -> Result<Vec<Member>, String> {
        fs::create_dir_all(root).map_err(|error| format!("--data-dir {}: {error}", root.display()))?;
        let root = root.canonicalize().map_err(|error| format!("--data-dir {}: {error}", root.display()))?;
        // Written last, so it is there when all are.
        if !root.join("1").join("falconer.toml").exists() {
            let members = self.members(&root);
            for member in members.iter().rev() {
                let text = self.config(member, &members);
                let file = member.file();
                fs::create_dir_all(&member.directory)
                    .and_then(|()| fs::write(&file, text))
                    .map_err(|error| format!("{}: {error}", file.display()))?;
            }
        }
        self.read(&root)
    }

    /// What is there, whoever wrote it, as long as it is what was asked for.
    fn read(&self, root: &Path) -> Result<Vec<Member>, String> {
        let count = self.servers + self.observers;
        let mut members = Vec::new();
        for (id, mut member) in (1..).zip(self.members(root)) {
            let sources = Sources { file: Some(member.file()), ..Sources::default() };
            let config = config::load(&sources).map_err(|error| error.to_string())?.config;
            let (listed, observers) = match &config.ensemble {
                Some(ensemble) => (ensemble.servers.len(), ensemble.servers.iter().filter(|server| server.observer).count()),
                None => (1, 0),
            };
            if (listed, observers) != (usize::from(count), usize::from(self.observers)) {
                return Err(format!(
                    "{} lists {listed} servers, {observers} of them observers, not {count} and {}: \
                     ask for those (--servers {} --observers {observers}), or take another directory",
                    member.file().display(),
                    self.observers,
                    listed - observers
                ));
            }
            if config.server.id != id {
                return Err(format!("{}: this should be server {id}, not {}", member.file().display(), config.server.id));
            }
            member.client_port = config.client.port;
            if let Some(ensemble) = &config.ensemble {
                (member.peer_port, member.observer) = (ensemble.own().peer_port, ensemble.own().observer);
            }
            members.push(member);
        }
        Ok(members)
    }

    fn members(&self, root: &Path) -> Vec<Member> {
        let member = |id: u16| Member {
            id,
            observer: id > self.servers,
            client_port: self.base_port + id - 1,
            peer_port: self.base_port + PEER_PORTS + id - 1,
            directory: root.join(id.to_string()),
        };
        (1..=self.servers + self.observers).map(member).collect()
    }

    fn config(&self, own: &Member, all: &[Member]) -> String {
        let mut text = format!(
            "# Written by `falconer ensemble`, once: what you change here stays.\n\n\
             [server]\nid = {}\n\n[client]\nport = {}\n\n[threads]\nshards = {}\n\
             # Several servers share this machine: nobody has cores of his own.\npinning = \"none\"\n\n\
             [admin]\nfour_letter_words = \"*\"\n",
            own.id, own.client_port, self.shards
        );
        for Member { id, observer, client_port, peer_port, .. } in all {
            text += &format!("\n[[ensemble.servers]]\nid = {id}\nhost = \"127.0.0.1\"\npeer_port = {peer_port}\nobserver = {observer}\n");
            if *id != own.id {
                text += &format!("client_address = \"127.0.0.1\"\nclient_port = {client_port}\n");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(servers: u16, observers: u16, base_port: u16) -> Plan {
        Plan { servers, observers, base_port, shards: 1 }
    }

    #[test]
    fn an_ensemble_is_written_once_and_then_read() {
        let dir = tempfile::tempdir().unwrap();
        let members = plan(2, 1, 3000).write(dir.path()).unwrap();
        let ports: Vec<_> = members.iter().map(|m| (m.id, m.client_port, m.peer_port, m.observer)).collect();
        assert_eq!(ports, [(1, 3000, 3100, false), (2, 3001, 3101, false), (3, 3002, 3102, true)]);
        assert_eq!(plan(2, 1, 4000).write(dir.path()).unwrap(), members, "the ports of the first time");
        let text = plan(3, 0, 3000).write(dir.path()).unwrap_err();
        assert!(text.contains("lists 3 servers, 1 of them observers, not 3 and 0: ask for those (--servers 2 --observers 1)"), "{text}");
        let file = dir.path().join("2").join("falconer.toml");
        let changed = fs::read_to_string(&file).unwrap().replace("port = 3001\n", "port = 3009\n");
        fs::write(&file, changed).unwrap();
        assert_eq!(plan(2, 1, 3000).write(dir.path()).unwrap()[1].client_port, 3009, "what the user changed holds");
    }

    #[test]
    fn one_server_needs_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let members = plan(1, 0, 3000).write(dir.path()).unwrap();
        assert_eq!((members.len(), members[0].client_port), (1, 3000));
        assert_eq!(plan(1, 0, 3000).write(dir.path()).unwrap(), members);
    }
}
