//! `falconer ensemble`: a whole ensemble on this machine, for trying things out and for tests. One process per server, each
//! with its own directory and configuration; their log lines come out here, marked with the server's number.
//! Refuses to be a supervisor: a server that dies by itself is named and stays down until somebody starts it.

use super::Exit;
use super::ensemble_files::{Member, Plan};
use crate::runtime::{die_with_parent, terminate};
use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// A server stops within a second; one that does not in this time is stuck.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// The line by which a server says that it serves.
const SERVES: &str = "falconer: serving clients on ";

/// What kind of ensemble.
#[derive(Args, Debug)]
pub struct Ensemble {
    /// Servers that vote.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=15))]
    pub servers: u16,
    /// Servers that follow without a vote, on top of them.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=15))]
    pub observers: u16,
    /// Everything lies below it; an ensemble that is there already goes on with its data and its configuration.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The first server's port for clients; the others follow, and the ports between servers from 100 above it.
    #[arg(long, value_name = "P", default_value_t = 2181, value_parser = clap::value_parser!(u16).range(1..=65_400))]
    pub base_port: u16,
    /// Threads per server that serve clients.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub shards: u16,
}

/// Runs the ensemble until it is stopped, or until the last server has ended.
pub fn run(arguments: &Ensemble) -> Exit {
    let members = match Plan::of(arguments).and_then(|plan| plan.write(&arguments.data_dir)) {
        Ok(members) => members,
        Err(what) => {
            eprintln!("falconer: {what}");
            return Exit::Usage;
        }
    };
    for Member { id, client_port, peer_port, directory, observer, .. } in &members {
        let role = if *observer { " (an observer)" } else { "" };
        say(&format!(
            "server {id}{role}: clients on 127.0.0.1:{client_port}, servers on 127.0.0.1:{peer_port}, in {}",
            directory.display()
        ));
    }
    match Running::start(members) {
        Ok(running) => running.wait_for_all(),
        Err(error) => {
            eprintln!("falconer: the servers cannot be started: {error}");
            Exit::Failed
        }
    }
}

/// One line on standard error, whole even when several threads write.
fn say(line: &str) {
    // Who closed it does not want to hear more.
    let _ = io::stderr().lock().write_all(format!("falconer: {line}\n").as_bytes());
}

enum Event {
    /// The server of this index serves clients.
    Serves(usize),
    /// It closed its standard error: it has ended.
    Ended(usize),
    Stop,
}

struct Running {
    members: Vec<Member>,
    /// `None`: it has ended.
    children: Vec<Option<Child>>,
    serving: Vec<bool>,
    events: Receiver<Event>,
    /// When somebody asked for the end of it all.
    stopping: Option<Instant>,
    announced: bool,
    died: bool,
}

impl Running {
    fn start(members: Vec<Member>) -> io::Result<Running> {
        let (sender, events) = mpsc::channel();
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let on_signal = sender.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for _ in signals.forever() {
                // The main thread is alive as long as the process.
                let _ = on_signal.send(Event::Stop);
            }
        })?;
        let count = members.len();
        let mut running =
            Running { members, children: Vec::new(), serving: vec![false; count], events, stopping: None, announced: false, died: false };
        for index in 0..count {
            match spawn(&running.members[index], index, sender.clone()) {
                Ok(child) => running.children.push(Some(child)),
                Err(error) => {
                    running.stop();
                    running.children.iter_mut().flatten().for_each(|child| drop(child.wait()));
                    return Err(error);
                }
            }
        }
        Ok(running)
    }

    fn wait_for_all(mut self) -> Exit {
        while self.children.iter().any(Option::is_some) {
            let wait = self.stopping.map_or(Duration::MAX, |since| STOP_WAIT.saturating_sub(since.elapsed()));
            match self.events.recv_timeout(wait) {
                Ok(Event::Serves(index)) => self.serves(index),
                Ok(Event::Ended(index)) => self.ended(index),
                Ok(Event::Stop) => self.stop(),
                Err(RecvTimeoutError::Timeout) => self.kill(),
                Err(RecvTimeoutError::Disconnected) => unreachable!("the thread for signals has a sender"),
            }
        }
        if self.died { Exit::Failed } else { Exit::Clean }
    }

    fn serves(&mut self, index: usize) {
        self.serving[index] = true;
        let all = self.children.iter().zip(&self.serving).all(|(child, serves)| child.is_none() || *serves);
        if all && !self.announced && self.stopping.is_none() {
            self.announced = true;
            let addresses: Vec<String> = self.members.iter().map(|member| format!("127.0.0.1:{}", member.client_port)).collect();
            say(&format!("serving clients on {}", addresses.join(",")));
        }
    }

    fn ended(&mut self, index: usize) {
        let Some(mut child) = self.children[index].take() else { return };
        let member = &self.members[index];
        let how = match child.wait() {
            Ok(status) if status.success() && self.stopping.is_some() => return,
            Ok(status) => describe(status),
            Err(error) => error.to_string(),
        };
        self.died |= self.stopping.is_none();
        let left = self.children.iter().flatten().count();
        let rest = match (left, self.stopping.is_some()) {
            (0, _) | (_, true) => String::new(),
            (1, false) => "; the other one goes on. ".into(),
            (_, false) => format!("; the other {left} go on. "),
        };
        let again = if rest.is_empty() { String::new() } else { format!("To start it again: {}", member.command_line()) };
        say(&format!("server {} has ended ({how}){rest}{again}", member.id));
    }

    /// Asks every server to stop; a second time makes them stop at once.
    fn stop(&mut self) {
        self.stopping.get_or_insert_with(Instant::now);
        for child in self.children.iter().flatten() {
            terminate(child);
        }
    }

    fn kill(&mut self) {
        for (child, member) in self.children.iter_mut().zip(&self.members) {
            if let Some(child) = child {
                say(&format!("server {} does not stop, it is killed", member.id));
                // One that has ended in this moment cannot be killed any more.
                let _ = child.kill();
            }
        }
        self.stopping = Some(Instant::now());
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// In a process group of its own: what the keyboard sends goes to this process alone, which passes it on.
fn spawn(member: &Member, index: usize, events: Sender<Event>) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(member.arguments()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    die_with_parent(&mut command);
    let mut child = command.spawn()?;
    let stderr = child.stderr.take().expect("it is piped");
    let id = member.id;
    std::thread::Builder::new().name(format!("log of {id}")).spawn(move || {
        pass_on(stderr, id, |line| {
            if line.starts_with(SERVES.as_bytes()) {
                let _ = events.send(Event::Serves(index));
            }
        });
        let _ = events.send(Event::Ended(index));
    })?;
    Ok(child)
}

/// Copies lines to standard error with the number of their server in front.
fn pass_on(from: impl Read, id: u16, mut seen: impl FnMut(&[u8])) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
        seen(&line);
        let mut marked = format!("[{id}] ").into_bytes();
        marked.append(&mut line);
        if !marked.ends_with(b"\n") {
            marked.push(b'\n');
        }
        let _ = io::stderr().lock().write_all(&marked);
    }
}
