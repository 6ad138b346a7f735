//! Starts and stops the real binary for tests: a free port, a data directory, kill -9 and SIGTERM by process id.
//! Refuses to leave anything running: a dropped server is killed.

#![allow(dead_code)] // each test binary uses a part of it

pub mod ensemble;
pub mod network;

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// One server process.
pub struct Server {
    child: Child,
    pub address: String,
    pub log: Arc<Mutex<String>>,
}

/// A port nobody listens on at this moment, below the range from which the kernel gives ports to clients: a client that
/// reconnects to a server that is down must not end up connected to itself.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 10_000) as u16;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The program: the one built with this test, or what FALCONER_BIN names.
pub fn binary() -> OsString {
    std::env::var_os("FALCONER_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_falconer").into())
}

/// A command that runs the server on this directory and port.
pub fn command(data_dir: &Path, port: u16) -> Command {
    let mut command = Command::new(binary());
    command.args(["serve", "--shards", "2", "--client-port", &port.to_string()]);
    command.arg("--data-dir").arg(data_dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

impl Server {
    /// Starts a server and waits until it says that it serves.
    pub fn start(data_dir: &Path, port: u16) -> Server {
        Server::spawn(command(data_dir, port), port)
    }

    pub fn spawn(command: Command, port: u16) -> Server {
        let mut server = Server::launch(command, port);
        server.wait_for("falconer: serving clients on");
        server
    }

    /// Starts it without waiting for anything.
    pub fn launch(mut command: Command, port: u16) -> Server {
        let mut child = command.spawn().expect("the server binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        let sink = log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                sink.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Server { child, address: format!("127.0.0.1:{port}"), log }
    }

    /// How it ended, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child can be asked")
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.pid().to_string()]).status().expect("kill runs");
        assert!(sent.success());
    }

    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.log.lock().unwrap().contains(text) {
            let ended = self.child.try_wait().expect("the child can be asked");
            assert!(ended.is_none() && Instant::now() < deadline, "no {text:?} ({ended:?}) in:\n{}", self.log.lock().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What one that has ended has said, to the last word.
    pub fn said(self) -> String {
        // The lines are read on another thread, which lets go of them when there are no more.
        while Arc::strong_count(&self.log) > 1 {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.log.lock().unwrap().clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("it ends");
    }

    /// SIGTERM; returns how it ended and how long that took.
    pub fn terminate(mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        self.signal("-TERM");
        let status = self.child.wait().expect("it ends");
        (status, start.elapsed())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Data directories of tests: on the disk the target folder is on, so that O_DIRECT is tried too.
pub fn data_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(PathBuf::from(env!("CARGO_TARGET_TMPDIR"))).expect("the target folder is writable")
}
