//! The binary: exit codes, `serve --check`, and the client commands against a server of its own.
//! FALCONER_TEST_SERVER=HOST:PORT runs them against another one, an Apache ZooKeeper with TTL nodes on for example: both
//! must answer alike.

mod process;

use std::io::Write;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A server to talk to, and what keeps it running.
struct Server {
    address: String,
    _running: Option<(process::Server, TempDir)>,
}

impl Server {
    fn start() -> Server {
        if let Ok(address) = std::env::var("FALCONER_TEST_SERVER") {
            return Server { address, _running: None };
        }
        let dir = process::data_dir();
        let server = process::Server::start(dir.path(), process::free_port());
        Server { address: server.address.clone(), _running: Some((server, dir)) }
    }

    /// Exit code, standard output, standard error.
    fn run(&self, line: &str) -> (i32, String, String) {
        self.run_with(line, &[])
    }

    fn run_with(&self, line: &str, input: &[u8]) -> (i32, String, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_falconer"))
            .args(line.split(' '))
            .args(["--server", &self.address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    #[track_caller]
    fn prints(&self, line: &str, want: &str) {
        assert_eq!(self.run(line), (0, want.into(), String::new()), "{line}");
    }

    #[track_caller]
    fn fails(&self, line: &str, want: &str) {
        assert_eq!(self.run(line), (1, String::new(), format!("falconer: {want}\n")), "{line}");
    }
}

#[test]
fn the_first_minute() {
    let server = Server::start();
    server.prints("create /app one", "/app\n");
    server.prints("get /app", "one\n");
    server.prints("set /app two --version 0", "");
    server.fails("set /app three --version 0", "version No is not valid : /app");
    server.prints("get /app", "two\n");
    server.prints("create /app/q x -s", "/app/q0000000000\n");
    server.prints("create /app/q y -s", "/app/q0000000001\n");
    server.prints("create /app/box -c", "/app/box\n");
    server.prints("create /app/ttl --ttl 60000", "/app/ttl\n");
    assert_eq!(server.run_with("create /app/box/in --stdin", b"a b\n"), (0, "/app/box/in\n".into(), String::new()));
    server.prints("get /app/box/in", "a b\n\n");
    server.prints("ls /app", "box\nq0000000000\nq0000000001\nttl\n");
    server.prints("ls -R /app", "/app\n/app/box\n/app/box/in\n/app/q0000000000\n/app/q0000000001\n/app/ttl\n");
    server.prints("ls /app/box /app/ttl", "/app/box:\nin\n/app/ttl:\n");
    let (code, stat, _) = server.run("stat /app");
    let names: Vec<&str> = stat.lines().map(|line| line.split(" = ").next().unwrap()).collect();
    let want = "cZxid ctime mZxid mtime pZxid cversion dataVersion aclVersion ephemeralOwner dataLength numChildren";
    assert_eq!((code, names.join(" ").as_str()), (0, want));
    assert!(stat.contains("cversion = 4\ndataVersion = 1\n") && stat.ends_with("dataLength = 3\nnumChildren = 4\n"), "{stat}");
    assert_eq!(server.run("get -s /app").1, format!("two\n{stat}"));
    server.fails("delete /app", "Node not empty: /app");
    server.prints("delete /app/q0000000000 /app/q0000000001", "");
    server.prints("delete -r /app", "");
    server.fails("get /app", "Node does not exist: /app");
    server.fails("ls -R /app", "Node does not exist: /app");
    server.prints("create /app", "/app\n");
    server.fails("create /app", "Node already exists: /app");
    server.prints("get /app", "\n");
    server.prints("delete /app", "");
}

#[test]
fn a_directory_is_listed_by_page() {
    let dir = process::data_dir();
    let running = process::Server::start(dir.path(), process::free_port());
    let server = Server { address: running.address.clone(), _running: Some((running, dir)) };
    server.prints("create /d", "/d\n");
    server.prints("ls --page 2 /d", "");
    for name in ["c", "a", "e", "b", "d"] {
        server.prints(&format!("create /d/{name}"), &format!("/d/{name}\n"));
    }
    for names in 1..=6 {
        server.prints(&format!("ls --page {names} /d"), "a\nb\nc\nd\ne\n");
    }
    server.prints("ls --page 1 /d/a /d", "/d/a:\n/d:\na\nb\nc\nd\ne\n");
    assert!(server.run("ls --page 2 -s /d").1.ends_with("numChildren = 5\n"));
    server.fails("ls --page 2 /none", "Node does not exist: /none");
    assert_eq!(server.run("ls --page 0 /d").0, 2);
}

#[test]
fn a_list_of_servers_and_a_chroot() {
    let server = Server::start();
    server.prints("create /root", "/root\n");
    let under = Server { address: format!("127.0.0.1:1,{}/root", server.address), _running: None };
    under.prints("create /a x --auth digest:u:p", "/a\n");
    under.prints("ls /", "a\n");
    under.prints("ls -R /", "/\n/a\n");
    server.prints("get /root/a", "x\n");
    server.fails("ls / --auth nosuch:x", "Authentication failed");
    server.prints("delete -r /root", "");
}

#[test]
fn the_program_checks_and_exits() {
    let dir = TempDir::new().unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_falconer")).args(arguments).current_dir(dir.path()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    std::fs::write(dir.path().join("zoo.cfg"), "dataDir=/d\nclientPort=2181\nsnapshot.trust.empty=true\n").unwrap();
    std::fs::write(dir.path().join("bad.cfg"), "dataDir=/d\nclientPort=x\n").unwrap();
    let (code, out, err) = run(&["serve", "zoo.cfg", "--client-port", "2199", "--check"]);
    assert_eq!((code, err.as_str()), (Some(0), "falconer: zoo.cfg:3: snapshot.trust.empty: no effect, the files have another format\n"));
    assert!(out.starts_with("[server]\nid = 0\n") && out.contains("\nport = 2199\n"), "{out}");
    let (code, out, err) = run(&["serve", "bad.cfg", "--check"]);
    let want = "falconer: bad.cfg:2: clientPort: bad value \"x\", allowed: 0 to 65535\n";
    assert_eq!((code, out.as_str(), err.as_str()), (Some(2), "", want));
    assert_eq!(run(&["serve", "--frob"]).0, Some(2));
    assert_eq!(run(&["ls", "a"]).0, Some(2));
    let (code, _, err) = run(&["ls", "/", "--server", "127.0.0.1:1"]);
    assert_eq!(code, Some(1));
    assert!(err.starts_with("falconer: no server answers: 127.0.0.1:1: Connection refused"), "{err}");
}

#[test]
fn an_ensemble_that_cannot_be_is_refused_before_anything_is_started() {
    let dir = process::data_dir();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_falconer"));
        let output = command.arg("ensemble").args(arguments).arg("--data-dir").arg(dir.path()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run(&["--servers", "0"]).0, 2);
    assert_eq!(run(&["--base-port", "65500"]).0, 2);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let file = dir.path().join("1").join("falconer.toml");
    std::fs::create_dir(dir.path().join("1")).unwrap();
    std::fs::write(&file, "[client]\nprot = 1\n").unwrap();
    let (code, text) = run(&[]);
    assert!(code == 2 && text.contains("falconer.toml:2: unknown key \"client.prot\""), "{code}: {text}");
    std::fs::write(&file, "[client]\nport = 1\n").unwrap();
    let (code, text) = run(&[]);
    let want = "lists 1 servers, 0 of them observers, not 3 and 0: ask for those (--servers 1 --observers 0), or take another directory";
    assert!(code == 2 && text.contains(want), "{code}: {text}");
}

#[test]
fn the_doctor_times_the_disk_and_leaves_it_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let doctor = |path: &str| {
        let command = ["doctor", "--seconds", "1", "--data-dir", path];
        let output = Command::new(env!("CARGO_BIN_EXE_falconer")).args(command).current_dir(dir.path()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    // What it thinks of this machine is the machine's business.
    let (code, text) = doctor(".");
    assert!(
        text.contains("durable 4 KiB writes") && text.contains("io_uring") && code == i32::from(text.contains("BAD")),
        "{code}: {text}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let (code, text) = doctor("missing");
    assert!(code == 1 && text.contains("BAD    missing"), "{code}: {text}");
}

#[test]
fn a_damaged_directory_is_named_and_what_is_lost_is_shown() {
    let dir = process::data_dir();
    let server = process::Server::start(dir.path(), process::free_port());
    let to = ["--server", &server.address];
    for i in 0..20 {
        let status = Command::new(env!("CARGO_BIN_EXE_falconer")).args(["create", &format!("/n{i}"), "data"]).args(to).output().unwrap();
        assert!(status.status.success());
    }
    let recover = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_falconer"));
        let output = command.args(["recover", "--show", "--data-dir"]).arg(dir.path()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(recover().0, 1, "a running server has the directory");
    assert!(server.terminate().0.success());
    let (code, text) = recover();
    assert!(code == 0 && text.starts_with("sound: no snapshot and the log up to zxid 0x1"), "{text}");
    let log = dir.path().join("log.0000");
    let mut bytes = std::fs::read(&log).unwrap();
    let at = bytes.windows(4).position(|w| w == b"/n10").expect("the path stands in the log");
    bytes[at] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let (code, text) = recover();
    assert!(code == 3 && text.contains("log.0000") && text.contains("lost:"), "{text}");
    let output = process::command(dir.path(), process::free_port()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(3) && said.contains("log.0000") && said.contains("recover"), "{said}");
}
