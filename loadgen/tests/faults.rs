//! The program against a small server that errs on purpose: each kind of fault must end in a message and an exit
//! status other than 0, and a server without faults in 0. The server knows just the requests that the program sends.

use falconer::wire::jute::{write_buffer, write_i32, write_string};
use falconer::wire::record::{Stat, event};
use falconer::wire::request::{Create, Request};
use falconer::wire::response::{self, code};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    /// One set is answered with the id of another request.
    WrongXid,
    /// One set is never answered.
    LostReply,
    /// Sets are confirmed and forgotten.
    LostWrite,
    /// Reads return what the node was created with.
    StaleRead,
    /// Reads return the data of another node.
    ForeignData,
    /// Sets fail.
    Refusal,
    /// The connection breaks at a set.
    Hangup,
    /// A set is answered with the zxid before the last.
    ZxidBack,
    /// A create is confirmed and forgotten.
    LostCreate,
    /// Ephemeral nodes outlive their session.
    LeftBehind,
    /// A sequence number is given twice.
    RepeatedSequence,
    /// A list lacks a child.
    ShortList,
    /// A watch event is not sent.
    LostEvent,
    /// A watch event is sent twice.
    DuplicateEvent,
    /// Everything stands still for a second, once.
    Pause,
}

#[derive(Clone)]
struct Value {
    data: Vec<u8>,
    stat: Stat,
}

struct Node {
    first: Value,
    now: Value,
    owner: u64,
}

/// All nodes but the root, and the last zxid.
#[derive(Default)]
struct Store {
    nodes: BTreeMap<String, Node>,
    zxid: i64,
    sets: u32,
    creates: u32,
    /// The number of the last connection, and of the next sequential node.
    sessions: u64,
    sequence: u32,
}

impl Store {
    fn children(&self, path: &str) -> Vec<String> {
        let prefix = format!("{path}/");
        let below = self.nodes.range(prefix.clone()..).map_while(|(other, _)| other.strip_prefix(&prefix));
        below.filter(|name| !name.contains('/')).map(str::to_string).collect()
    }

    fn create(&mut self, create: &Create<'_>, session: u64, fault: Fault, body: &mut Vec<u8>) -> i32 {
        let (mut path, data) = (create.path.to_string(), create.data.unwrap_or(&[]));
        if create.flags & 2 != 0 {
            path += &format!("{:010}", self.sequence);
            self.sequence += u32::from(fault != Fault::RepeatedSequence || self.sequence != 40);
        } else if self.nodes.contains_key(&path) {
            return code::NODE_EXISTS;
        }
        self.zxid += 1;
        self.creates += u32::from(path.contains("/n"));
        let stat = Stat { mzxid: self.zxid, data_length: data.len() as i32, ..Stat::default() };
        let first = Value { data: data.to_vec(), stat };
        write_string(body, &path);
        if fault != Fault::LostCreate || self.creates != 50 {
            let owner = if create.flags & 1 != 0 { session } else { 0 };
            self.nodes.insert(path, Node { now: first.clone(), first, owner });
        }
        code::OK
    }

    fn delete(&mut self, path: &str) -> i32 {
        if !self.children(path).is_empty() {
            return code::NOT_EMPTY;
        }
        self.zxid += 1;
        if self.nodes.remove(path).is_some() { code::OK } else { code::NO_NODE }
    }

    fn get(&self, path: &str, fault: Fault, body: &mut Vec<u8>) -> i32 {
        let Some(node) = self.nodes.get(path) else { return code::NO_NODE };
        let value = if fault == Fault::StaleRead { &node.first } else { &node.now };
        let foreign = self.nodes.iter().rev().find(|(other, _)| *other != path).expect("there are many");
        write_buffer(body, Some(if fault == Fault::ForeignData { &foreign.1.now.data } else { &value.data }));
        value.stat.encode(body);
        code::OK
    }

    fn exists(&self, path: &str, body: &mut Vec<u8>) -> i32 {
        let Some(node) = self.nodes.get(path) else { return code::NO_NODE };
        Stat { num_children: self.children(path).len() as i32, ..node.now.stat }.encode(body);
        code::OK
    }

    fn set(&mut self, path: &str, data: &[u8], fault: Fault, body: &mut Vec<u8>) -> i32 {
        if fault == Fault::Refusal {
            return code::NO_AUTH;
        }
        self.zxid += 1;
        self.sets += 1;
        let zxid = self.zxid;
        let Some(node) = self.nodes.get_mut(path) else { return code::NO_NODE };
        let stat = Stat { version: node.now.stat.version + 1, mzxid: zxid, data_length: data.len() as i32, ..node.now.stat };
        stat.encode(body);
        if fault != Fault::LostWrite {
            node.now = Value { data: data.to_vec(), stat };
        }
        code::OK
    }
}

fn read_frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).ok()?;
    // A four-letter word is no frame.
    let mut frame = vec![0; Some(u32::from_be_bytes(len) as usize).filter(|len| *len < 1 << 24)?];
    stream.read_exact(&mut frame).ok()?;
    Some(frame)
}

fn children_body(names: &[String], body: &mut Vec<u8>) -> i32 {
    write_i32(body, names.len() as i32);
    names.iter().for_each(|name| write_string(body, name));
    code::OK
}

/// Executes one request; None closes the connection without a reply.
fn execute(store: &mut Store, request: &Request<'_>, session: u64, fault: Fault, body: &mut Vec<u8>) -> Option<i32> {
    Some(match request {
        Request::Create(create) => store.create(create, session, fault, body),
        Request::Delete { path, .. } => store.delete(path),
        Request::GetData { path, .. } => store.get(path, fault, body),
        Request::SetData { .. } if fault == Fault::Hangup => return None,
        Request::SetData { path, data, .. } => store.set(path, data.unwrap_or(&[]), fault, body),
        Request::GetChildren { path, .. } if store.nodes.contains_key(&**path) => children_body(&store.children(path), body),
        Request::GetChildren { .. } => code::NO_NODE,
        Request::GetChildren2 { path, .. } => {
            let mut names = store.children(path);
            if fault == Fault::ShortList {
                names.pop();
            }
            children_body(&names, body);
            Stat { num_children: names.len() as i32, ..Stat::default() }.encode(body);
            code::OK
        }
        Request::Exists { path, .. } => store.exists(path, body),
        Request::Sync { path } => {
            write_string(body, path);
            code::OK
        }
        // Always refused, which the program must be able to live with: it deletes one by one then.
        Request::Multi(_) => {
            response::multi_error(body, code::NOT_EMPTY);
            code::OK
        }
        Request::CloseSession => {
            store.nodes.retain(|_, node| node.owner != session || fault == Fault::LeftBehind);
            code::OK
        }
        Request::Ping => code::OK,
        other => panic!("the program sent {other:?}"),
    })
}

fn serve(mut stream: TcpStream, store: &Mutex<Store>, fault: Fault) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    read_frame(&mut stream)?;
    let mut out = Vec::new();
    response::connect(&mut out, 10_000, 1, &[1; 16], Some(false));
    let session = {
        let mut store = store.lock().unwrap();
        store.sessions += 1;
        store.sessions
    };
    // One-shot watches on data; in these tests only the session itself changes what it watches.
    let (mut watched, mut fired) = (BTreeSet::new(), 0);
    loop {
        stream.write_all(&out).ok()?;
        out.clear();
        let frame = read_frame(&mut stream)?;
        let (mut xid, op) = (i32::from_be_bytes(*frame.first_chunk()?), i32::from_be_bytes(*frame[4..].first_chunk()?));
        let request = Request::decode(op, &frame[8..]).expect("the program sends what decodes");
        let mut store = store.lock().unwrap();
        let mut body = Vec::new();
        let err = execute(&mut store, &request, session, fault, &mut body)?;
        let mut zxid = store.zxid as u64;
        if store.sets == 100 && matches!(request, Request::SetData { .. }) {
            match fault {
                Fault::WrongXid => xid += 1,
                Fault::LostReply => continue,
                // The session has seen a newer one: its own sets before this one.
                Fault::ZxidBack => zxid = 1,
                // With the lock: everybody waits.
                Fault::Pause => {
                    store.sets += 1;
                    std::thread::sleep(Duration::from_secs(1));
                }
                _ => {}
            }
        }
        match &request {
            Request::GetData { path, watch: true } => drop(watched.insert(path.to_string())),
            Request::SetData { path, .. } if watched.remove(path.as_ref()) => {
                fired += 1;
                let times = match (fired, fault) {
                    (20, Fault::LostEvent) => 0,
                    (20, Fault::DuplicateEvent) => 2,
                    _ => 1,
                };
                (0..times).for_each(|_| response::watch_event(&mut out, zxid, event::NODE_DATA_CHANGED, path));
            }
            _ => {}
        }
        let mark = response::begin_reply(&mut out, xid, zxid, err);
        out.extend_from_slice(&body);
        response::end_frame(&mut out, mark);
    }
}

fn start(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let store = Arc::new(Mutex::new(Store::default()));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let store = store.clone();
            std::thread::spawn(move || serve(stream.unwrap(), &store, fault));
        }
    });
    address
}

fn run(address: SocketAddr, arguments: &[&str]) -> Output {
    let server = address.to_string();
    Command::new(env!("CARGO_BIN_EXE_falconer-loadgen")).args(arguments).args(["--server", &server]).output().unwrap()
}

/// Exit status and everything printed.
fn load(fault: Fault, options: &str) -> (Option<i32>, String) {
    let common = " -c 4 -o 5 --ops 800 --warmup 0 --reply-timeout-ms 1500";
    let output = run(start(fault), &format!("{options}{common}").split(' ').collect::<Vec<_>>());
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code(), text)
}

fn expect_of(options: &str, fault: Fault, status: i32, words: &str) {
    let (code, text) = load(fault, options);
    assert!(code == Some(status) && text.contains(words), "{fault:?}: exit status {code:?}: {text}");
}

fn expect(fault: Fault, status: i32, words: &str) {
    expect_of("mixed -k 50 --read-percent 50", fault, status, words);
}

#[test]
fn a_right_server_passes() {
    expect(Fault::None, 0, "errors       0");
}

#[test]
fn a_wrong_request_id_ends_the_run() {
    expect(Fault::WrongXid, 1, "a reply was lost, repeated or overtaken");
}

#[test]
fn a_reply_that_never_comes_ends_the_run() {
    expect(Fault::LostReply, 1, "reply");
}

#[test]
fn a_broken_connection_ends_the_run() {
    expect(Fault::Hangup, 1, "connection");
}

#[test]
fn a_lost_write_is_reported() {
    expect(Fault::LostWrite, 1, "version");
}

#[test]
fn a_stale_read_is_reported() {
    expect(Fault::StaleRead, 1, "stale read");
}

#[test]
fn foreign_data_is_reported() {
    expect(Fault::ForeignData, 1, "is not what was written");
}

#[test]
fn error_codes_are_reported() {
    expect(Fault::Refusal, 1, "NoAuth");
}

#[test]
fn a_zxid_that_goes_back_ends_the_run() {
    expect(Fault::ZxidBack, 1, "zxid-went-back");
}

#[test]
fn a_created_node_that_is_not_there_at_the_end_is_reported() {
    expect_of("create", Fault::None, 0, "errors       0");
    expect_of("create", Fault::LostCreate, 1, "was created and is not there");
}

const SEQUENTIAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sequential.toml");

#[test]
fn ephemeral_nodes_must_be_gone_when_their_sessions_are() {
    expect_of(SEQUENTIAL, Fault::None, 0, "errors       0");
    expect_of(SEQUENTIAL, Fault::LeftBehind, 1, "left-behind");
}

#[test]
fn a_sequence_number_that_is_given_twice_is_reported() {
    expect_of(SEQUENTIAL, Fault::RepeatedSequence, 1, "sequence");
}

#[test]
fn a_list_that_lacks_a_child_is_reported() {
    expect_of("listing -k 300", Fault::None, 0, "errors       0");
    expect_of("listing -k 300", Fault::ShortList, 1, "keys were created");
}

const WATCHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/watched.toml");

#[test]
fn watch_events_that_are_lost_or_come_twice_are_reported() {
    let watched = |fault| {
        let output = run(start(fault), &[WATCHED, "--ops", "2000", "--warmup", "0"]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = watched(Fault::None);
    assert!(code == Some(0) && text.contains("delivered, 0 lost, 0 duplicated"), "{code:?} {text}");
    for (fault, words) in [(Fault::LostEvent, "and no event"), (Fault::DuplicateEvent, "or a second one")] {
        let (code, text) = watched(fault);
        assert!(code == Some(1) && text.contains(words), "{fault:?}: {code:?} {text}");
    }
}

/// A closed loop asks nothing while the server stands still, so nothing is late but what was under way.
#[test]
fn a_pause_shows_in_the_percentiles_of_an_open_loop_only() {
    let report = |options: &str| {
        let options = format!("write -k 50 -c 4 -o 5 -d 5 --warmup 0 --json {options}");
        let output = run(start(Fault::Pause), &options.split_whitespace().collect::<Vec<_>>());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let (open, closed) = (report("--rate 200 --arrivals constant"), report(""));
    // A fifth of the time nothing was answered: a tenth of what was due waited for half a second and more.
    assert!(open["all"]["p90_us"].as_f64().unwrap() > 300_000.0, "{}", open["all"]);
    assert!(open["service"]["p90_us"].as_f64().unwrap() < 300_000.0, "{}", open["service"]);
    assert!(closed["all"]["p99_us"].as_f64().unwrap() < 300_000.0, "{}", closed["all"]);
    for run in [open, closed] {
        assert!(run["longest_stall_ms"].as_f64().unwrap() > 900.0, "{}", run["longest_stall_ms"]);
    }
}

#[test]
fn the_other_scenarios_and_what_is_left_behind() {
    let address = start(Fault::None);
    let json = |arguments: &str| {
        let output = run(address, &[&arguments.split(' ').collect::<Vec<_>>()[..], &["--json"]].concat());
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    assert_eq!(json("create -c 3 -o 2 --ops 300 --warmup 0")["ops"], 300);
    assert_eq!(json("idle -c 20 -d 0.1")["errors"], 0);
    assert_eq!(json("clean")["ops"], 0, "create tidies up");
    let own = std::process::id().to_string();
    let filled = json(&format!("fill -n 2500 -c 2 -o 50 --server-pid {own}"));
    assert_eq!(filled["ops"], 2500);
    assert!(filled["bytes_per_node"].is_number() && filled["server_cpu_us_per_op"].as_f64().unwrap() > 0.0);
    let refused = run(address, &["read"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("has 3 children"));
    assert_eq!(json("write -c 2 -o 2 -k 10 --ops 100 --force")["write"]["ops"], 100);
    assert_eq!(json("clean")["ops"], 0);
}

#[test]
fn conditions_and_baselines_decide_the_exit_status_and_reports_become_files() {
    let address = start(Fault::None);
    let dir = std::env::temp_dir().join(format!("falconer-loadgen-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = |name: &str| dir.join(name).display().to_string();
    let load = "write -k 50 -c 2 -o 2 --rate 200 -d 2 --warmup 0 -q";
    let status = |more: &[&str]| {
        let output = run(address, &[&load.split(' ').collect::<Vec<_>>()[..], more].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let [save, csv, md, hgrm, html] = ["save", "csv", "md", "hgrm", "html"].map(file);
    let files = ["--save", &save, "--csv", &csv, "--md", &md, "--hgrm", &hgrm, "--html", &html];
    assert_eq!(status(&files).0, Some(0));
    for path in [&save, &csv, &md, &hgrm, &html] {
        assert!(std::fs::metadata(path).unwrap().len() > 60, "{path}");
    }
    assert!(std::fs::read_to_string(&html).unwrap().contains("Latency spectrum</h2><svg"));
    let (code, text) = status(&["--assert", "p50<1us,errors=0"]);
    assert!(code == Some(3) && text.contains("FAILED p50<1us"), "{code:?} {text}");
    let mut report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&save).unwrap()).unwrap();
    report["ops_per_s"] = 1e6.into();
    std::fs::write(&save, report.to_string()).unwrap();
    let (code, text) = status(&["--baseline", &save]);
    assert!(code == Some(3) && text.contains("ops/s"), "{code:?} {text}");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_comparison_loads_all_sides_and_a_wrong_side_makes_it_fail() {
    let compare = |fault: Fault| {
        let sides = [format!("a={}", start(Fault::None)), format!("b={}", start(fault))];
        let options = "--workload write -k 50 -c 2 -o 2 --ops 300 --warmup 0 --rounds 2";
        let arguments = [&["compare", &sides[0], &sides[1]], &options.split(' ').collect::<Vec<_>>()[..]].concat();
        let output = Command::new(env!("CARGO_BIN_EXE_falconer-loadgen")).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = compare(Fault::None);
    assert!(code == Some(0) && text.contains("| b / a") && text.contains("x ("), "{code:?} {text}");
    assert_eq!(compare(Fault::LostWrite).0, Some(1));
}

#[test]
fn the_highest_rate_is_found_and_an_impossible_one_is_not() {
    let options = |limit: &str| format!("write -k 50 -c 2 -o 2 -d 0.5 --warmup 0 --rate 20 --json --find-max {limit}");
    let address = start(Fault::None);
    let output = run(address, &options("p50<1us").split(' ').collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("at no rate"));
}
