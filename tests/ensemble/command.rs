//! `falconer ensemble` as a person runs it. Refuses to look inside: what is printed and what clients see.

use crate::load::{connect, persistent};
use crate::process::{data_dir, free_port};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A whole ensemble behind one process.
struct Command3 {
    child: Child,
    said: Arc<Mutex<String>>,
    ports: Vec<u16>,
}

impl Command3 {
    fn start(dir: &Path, base_port: u16) -> Command3 {
        let mut command = Command::new(crate::process::binary());
        command.args(["ensemble", "--servers", "3", "--base-port", &base_port.to_string(), "--data-dir"]).arg(dir);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let said = Arc::new(Mutex::new(String::new()));
        let (sink, lines) = (said.clone(), BufReader::new(child.stderr.take().expect("it is piped")).lines());
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| *sink.lock().unwrap() += &(line + "\n")));
        Command3 { child, said, ports: (0..3).map(|index| base_port + index).collect() }
    }

    fn hosts(&self) -> String {
        self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    fn wait_for(&self, what: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.said.lock().unwrap().clone();
            if let Some(line) = said.lines().find(|line| what(line)) {
                return line.into();
            }
            assert!(Instant::now() < deadline, "it has not said that yet, but:\n{said}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, signal: &str, pid: u32) {
        assert!(Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill runs").success());
    }

    fn ends(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be asked") {
                return status;
            }
            assert!(Instant::now() < deadline, "it goes on, and has said:\n{}", self.said.lock().unwrap());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The process ids of its servers.
    fn servers(&self) -> Vec<u32> {
        let file = format!("/proc/{0}/task/{0}/children", self.child.id());
        let text = std::fs::read_to_string(file).expect("the kernel tells the children");
        text.split_whitespace().map(|pid| pid.parse().expect("a number")).collect()
    }

    fn nobody_listens(&self) {
        let deadline = Instant::now() + PATIENCE;
        while let Some(port) = self.ports.iter().find(|port| TcpStream::connect(("127.0.0.1", **port)).is_ok()) {
            assert!(Instant::now() < deadline, "somebody still listens on {port}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Command3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports in a row that nobody uses, and those 100 above them.
fn base_port() -> u16 {
    let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let base = free_port();
        if (base..base + 3).all(|port| port < 32_000 && free(port) && free(port + 100)) {
            return base;
        }
    }
}

fn is_ready(line: &str) -> bool {
    line.starts_with("falconer: serving clients on ")
}

/// One ready line, servers that go on when one dies and are named, data that is there the next time.
pub async fn one_command() {
    let dir = data_dir();
    let base = base_port();
    let mut first = Command3::start(dir.path(), base);
    let ready = first.wait_for(is_ready);
    assert_eq!(ready, format!("falconer: serving clients on {}", first.hosts()));
    let client = connect(&first.hosts()).await;
    client.create("/kept", b"as it was", &persistent()).await.expect("the ensemble serves");

    let servers = first.servers();
    assert_eq!(servers.len(), 3);
    first.signal("-KILL", servers[0]);
    let line = first.wait_for(|line| line.contains("has ended (killed by signal 9)"));
    assert!(line.contains("the other 2 go on. To start it again: falconer serve "), "{line}");
    let deadline = Instant::now() + PATIENCE;
    while client.set_data("/kept", b"as it is", None).await.is_err() {
        assert!(Instant::now() < deadline, "two of three are enough");
    }
    drop(client);
    first.signal("-TERM", first.child.id());
    assert_eq!(first.ends().code(), Some(1), "one died by itself");

    let mut second = Command3::start(dir.path(), base);
    second.wait_for(is_ready);
    let client = connect(&second.hosts()).await;
    assert_eq!(client.get_data("/kept").await.expect("it was acknowledged").0, b"as it is");
    drop(client);
    second.signal("-INT", second.child.id());
    assert_eq!(second.ends().code(), Some(0), "{}", second.said.lock().unwrap());
    second.nobody_listens();
}

/// kill -9 of the command leaves no server behind.
pub async fn no_orphans() {
    let dir = data_dir();
    let mut command = Command3::start(dir.path(), base_port());
    command.wait_for(is_ready);
    command.child.kill().expect("it can be killed");
    command.ends();
    command.nobody_listens();
}
