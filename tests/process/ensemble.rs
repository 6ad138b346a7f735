//! An ensemble of real processes, with a proxy on every way between two of them: each can be killed, paused, stopped,
//! started again and wiped, each way can be cut. Refuses to leave anything running.

use super::network::Network;
use super::{Server, free_port};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything takes on a machine with other things to do.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// A server that does not answer a four-letter word in this time is taken for dead or paused.
const ANSWER_WAIT: Duration = Duration::from_millis(500);

/// What an ensemble is made of.
pub struct Shape {
    pub voters: u16,
    pub observers: u16,
    /// More lines for every server's configuration, sections of their own.
    pub settings: String,
    /// More lines for their section `[data]`.
    pub data_settings: String,
    /// Where each server's data lies; by default below the ensemble's own directory.
    pub data_dirs: Option<Vec<PathBuf>>,
    /// Where each server runs; by default on loopback, with proxies between them.
    pub places: Option<Vec<Place>>,
}

/// An address of its own, and what the command begins with.
#[derive(Clone)]
pub struct Place {
    pub address: Ipv4Addr,
    pub prefix: Vec<String>,
}

impl Shape {
    pub fn voters(voters: u16) -> Shape {
        Shape { voters, observers: 0, settings: String::new(), data_settings: String::new(), data_dirs: None, places: None }
    }
}

/// One server, running or not.
pub struct Member {
    pub id: u16,
    pub client_port: u16,
    pub data_dir: PathBuf,
    place: Place,
    config: PathBuf,
    server: Option<Server>,
    paused: bool,
    /// What was logged by runs that are over.
    log: String,
}

impl Member {
    fn command(&self) -> Command {
        let mut words = self.place.prefix.iter().map(OsString::from).chain([super::binary(), "serve".into()]);
        let mut command = Command::new(words.next().expect("the binary at least"));
        command.args(words).arg(&self.config);
        command
    }
}

pub struct Ensemble {
    pub members: Vec<Member>,
    pub network: Network,
    _dir: tempfile::TempDir,
}

impl Ensemble {
    /// Three servers that vote.
    pub fn start() -> Ensemble {
        Ensemble::of(&Shape::voters(3))
    }

    /// Starts all servers and waits until every one of them serves clients.
    pub fn of(shape: &Shape) -> Ensemble {
        let mut ensemble = Ensemble::prepare(shape);
        for id in ensemble.ids() {
            ensemble.launch(id);
        }
        ensemble.wait_until_all_serve();
        ensemble
    }

    fn prepare(shape: &Shape) -> Ensemble {
        let dir = super::data_dir();
        let ids: Vec<u16> = (1..=shape.voters + shape.observers).collect();
        let peers: Vec<(u16, u16)> = ids.iter().map(|id| (*id, free_port())).collect();
        let network = Network::new(if shape.places.is_some() { &[] } else { &peers });
        let here = Place { address: Ipv4Addr::LOCALHOST, prefix: Vec::new() };
        let place = |id: u16| shape.places.as_ref().map_or(&here, |places| &places[usize::from(id) - 1]);
        let secret = dir.path().join("peer.secret");
        std::fs::write(&secret, "a secret of servers that others could reach\n").expect("the target folder is writable");
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
        let mut members = Vec::new();
        for &(id, own_port) in &peers {
            let home = dir.path().join(id.to_string());
            std::fs::create_dir_all(&home).expect("the target folder is writable");
            let data_dir = match &shape.data_dirs {
                Some(dirs) => dirs[usize::from(id) - 1].clone(),
                None => home.join("data"),
            };
            let client_port = free_port();
            let mut text = format!(
                "[server]\nid = {id}\n[client]\nport = {client_port}\naddress = \"{}\"\n[data]\ndir = {data_dir:?}\n{}\n\
                 [threads]\nshards = 1\npinning = \"none\"\n[admin]\nfour_letter_words = \"*\"\n{}\n",
                place(id).address,
                shape.data_settings,
                shape.settings
            );
            if shape.places.is_some() {
                text += &format!("[replication]\npeer_secret_file = {secret:?}\n");
            }
            for &other in &ids {
                let port = match (other == id, &shape.places) {
                    (true, _) => own_port,
                    (false, None) => network.port(id, other),
                    (false, Some(_)) => peers[usize::from(other) - 1].1,
                };
                let (host, observer) = (place(other).address, other > shape.voters);
                text += &format!("[[ensemble.servers]]\nid = {other}\nhost = \"{host}\"\npeer_port = {port}\nobserver = {observer}\n");
            }
            let config = home.join("falconer.toml");
            std::fs::write(&config, text).expect("the target folder is writable");
            members.push(Member {
                id,
                client_port,
                data_dir,
                place: place(id).clone(),
                config,
                server: None,
                paused: false,
                log: String::new(),
            });
        }
        Ensemble { members, network, _dir: dir }
    }

    // ---- who is there

    pub fn ids(&self) -> Vec<u16> {
        self.members.iter().map(|member| member.id).collect()
    }

    pub fn others(&self, than: u16) -> Vec<u16> {
        self.ids().into_iter().filter(|id| *id != than).collect()
    }

    /// All addresses for clients, beginning with that of server `first`.
    pub fn hosts(&self, first: usize) -> String {
        let count = self.members.len();
        let address = |index: usize| self.address(self.members[(first + index) % count].id);
        (0..count).map(address).collect::<Vec<_>>().join(",")
    }

    pub fn address(&self, id: u16) -> String {
        let member = self.member(id);
        format!("{}:{}", member.place.address, member.client_port)
    }

    fn member(&self, id: u16) -> &Member {
        &self.members[usize::from(id) - 1]
    }

    fn member_mut(&mut self, id: u16) -> &mut Member {
        &mut self.members[usize::from(id) - 1]
    }

    pub fn data_dir(&self, id: u16) -> PathBuf {
        self.member(id).data_dir.clone()
    }

    pub fn runs(&self, id: u16) -> bool {
        self.member(id).server.is_some()
    }

    /// What a server says to a four-letter word; empty if it does not.
    pub fn ask(&self, id: u16, word: &str) -> String {
        let address = SocketAddr::from((self.member(id).place.address, self.member(id).client_port));
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&address, ANSWER_WAIT)?;
            stream.set_read_timeout(Some(ANSWER_WAIT))?;
            stream.write_all(word.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        if self.member(id).server.is_none() || self.member(id).paused { String::new() } else { ask().unwrap_or_default() }
    }

    /// leader, follower, observer; empty while it serves nobody.
    pub fn mode(&self, id: u16) -> String {
        let answer = self.ask(id, "srvr");
        answer.lines().find_map(|line| line.strip_prefix("Mode: ")).unwrap_or_default().to_owned()
    }

    /// The server that says it leads; the newest epoch's if two think so.
    pub fn leader(&self) -> Option<u16> {
        self.ids().into_iter().filter(|id| self.mode(*id) == "leader").max_by_key(|id| self.zxid(*id))
    }

    /// The last transaction that a server has applied; 0 if it does not say.
    pub fn zxid(&self, id: u16) -> u64 {
        let answer = self.ask(id, "srvr");
        let hex = answer.lines().find_map(|line| line.strip_prefix("Zxid: 0x"));
        hex.and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0)
    }

    pub fn wait_for_leader(&mut self) -> u16 {
        self.wait_for("a leader", |ensemble| ensemble.leader())
    }

    /// Some server that follows.
    pub fn wait_for_follower(&mut self) -> u16 {
        self.wait_for("a follower", |ensemble| ensemble.ids().into_iter().find(|id| ensemble.mode(*id) == "follower"))
    }

    pub fn wait_until_serving(&mut self, id: u16) {
        self.wait_for(&format!("server {id} serves"), |ensemble| (!ensemble.mode(id).is_empty()).then_some(()));
    }

    /// Every server that runs serves clients, and one of them leads.
    pub fn wait_until_all_serve(&mut self) {
        self.wait_for_leader();
        for id in self.ids().into_iter().filter(|id| self.runs(*id)).collect::<Vec<_>>() {
            self.wait_until_serving(id);
        }
    }

    pub fn wait_for<T>(&mut self, what: &str, look: impl Fn(&Ensemble) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            self.check_alive();
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Nobody has died who was not killed.
    pub fn check_alive(&mut self) {
        for index in 0..self.members.len() {
            let ended = self.members[index].server.as_mut().and_then(Server::has_ended);
            assert!(ended.is_none(), "server {} has ended by itself ({ended:?})", self.members[index].id);
        }
    }

    /// The end of everybody's log.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for member in &self.members {
            let now = member.server.as_ref().map(|server| server.log.lock().unwrap().clone()).unwrap_or_default();
            let text = format!("{}{now}", member.log);
            let lines: Vec<&str> = text.lines().collect();
            all += &format!("---- server {}\n{}\n", member.id, lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        all
    }

    // ---- what is done to them

    /// Starts a server without waiting for anything.
    pub fn launch(&mut self, id: u16) {
        let member = self.member_mut(id);
        assert!(member.server.is_none(), "server {id} runs");
        let mut command = member.command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        member.server = Some(Server::launch(command, member.client_port));
    }

    /// kill -9.
    pub fn kill(&mut self, id: u16) {
        let server = self.take(id);
        server.kill();
    }

    /// Waits until a server has ended by itself; how, and what it said.
    pub fn wait_until_ended(&mut self, id: u16) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let server = self.member_mut(id).server.as_mut().expect("the server runs");
            if let Some(status) = server.has_ended() {
                let said = self.take(id).said();
                return (status, said);
            }
            assert!(Instant::now() < deadline, "server {id} goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Makes sure that it does not run, by kill -9 unless it has ended by itself.
    pub fn end(&mut self, id: u16) {
        drop(self.take(id));
    }

    /// SIGTERM; how it ended and how long that took.
    pub fn terminate(&mut self, id: u16) -> (ExitStatus, Duration) {
        let server = self.take(id);
        server.terminate()
    }

    fn take(&mut self, id: u16) -> Server {
        let member = self.member_mut(id);
        member.paused = false;
        let server = member.server.take().expect("the server runs");
        member.log += &format!("{}(that run ended here)\n", server.log.lock().unwrap());
        server
    }

    pub fn pause(&mut self, id: u16) {
        let member = self.member_mut(id);
        member.server.as_ref().expect("the server runs").signal("-STOP");
        member.paused = true;
    }

    pub fn resume(&mut self, id: u16) {
        let member = self.member_mut(id);
        member.server.as_ref().expect("the server runs").signal("-CONT");
        member.paused = false;
    }

    /// Everything a server had on disk is gone.
    pub fn wipe(&mut self, id: u16) {
        let member = self.member(id);
        assert!(member.server.is_none(), "server {id} runs");
        remove_contents(&member.data_dir);
    }

    /// How a server that must not start ends: its exit code and what it said.
    pub fn fails_to_start(&mut self, id: u16) -> (Option<i32>, String) {
        let output = self.member(id).command().output().expect("the server binary starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

fn remove_contents(dir: &Path) {
    for entry in std::fs::read_dir(dir).expect("a data directory").flatten() {
        let path = entry.path();
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.expect("a server's file can be removed");
    }
}
