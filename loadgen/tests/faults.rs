//! The program against a small server that errs on purpose: each kind of fault must end in a message and an exit
//! status other than 0, and a server without faults in 0. The server knows just the requests that the program sends.

use falconer::wire::jute::{write_buffer, write_i32, write_string};
use falconer::wire::record::Stat;
use falconer::wire::request::Request;
use falconer::wire::response::{self, code};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

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
}

#[derive(Clone)]
struct Value {
    data: Vec<u8>,
    stat: Stat,
}

struct Node {
    first: Value,
    now: Value,
}

/// All nodes but the root, and the last zxid.
#[derive(Default)]
struct Store {
    nodes: BTreeMap<String, Node>,
    zxid: i64,
    sets: u32,
}

impl Store {
    fn children(&self, path: &str) -> Vec<String> {
        let prefix = format!("{path}/");
        let below = self.nodes.range(prefix.clone()..).map_while(|(other, _)| other.strip_prefix(&prefix));
        below.filter(|name| !name.contains('/')).map(str::to_string).collect()
    }

    fn create(&mut self, path: &str, data: &[u8], body: &mut Vec<u8>) -> i32 {
        if self.nodes.contains_key(path) {
            return code::NODE_EXISTS;
        }
        self.zxid += 1;
        let stat = Stat { mzxid: self.zxid, data_length: data.len() as i32, ..Stat::default() };
        let first = Value { data: data.to_vec(), stat };
        self.nodes.insert(path.to_string(), Node { now: first.clone(), first });
        write_string(body, path);
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
    let mut frame = vec![0; u32::from_be_bytes(len) as usize];
    stream.read_exact(&mut frame).ok()?;
    Some(frame)
}

fn children_body(names: &[String], body: &mut Vec<u8>) -> i32 {
    write_i32(body, names.len() as i32);
    names.iter().for_each(|name| write_string(body, name));
    code::OK
}

/// Executes one request; None closes the connection without a reply.
fn execute(store: &mut Store, request: &Request<'_>, fault: Fault, body: &mut Vec<u8>) -> Option<i32> {
    Some(match request {
        Request::Create(create) => store.create(&create.path, create.data.unwrap_or(&[]), body),
        Request::Delete { path, .. } => store.delete(path),
        Request::GetData { path, .. } => store.get(path, fault, body),
        Request::SetData { .. } if fault == Fault::Hangup => return None,
        Request::SetData { path, data, .. } => store.set(path, data.unwrap_or(&[]), fault, body),
        Request::GetChildren { path, .. } if store.nodes.contains_key(&**path) => children_body(&store.children(path), body),
        Request::GetChildren { .. } => code::NO_NODE,
        // Always refused, which the program must be able to live with: it deletes one by one then.
        Request::Multi(_) => {
            response::multi_error(body, code::NOT_EMPTY);
            code::OK
        }
        Request::CloseSession | Request::Ping => code::OK,
        other => panic!("the program sent {other:?}"),
    })
}

fn serve(mut stream: TcpStream, store: &Mutex<Store>, fault: Fault) -> Option<()> {
    read_frame(&mut stream)?;
    let mut out = Vec::new();
    response::connect(&mut out, 10_000, 1, &[1; 16], Some(false));
    loop {
        stream.write_all(&out).ok()?;
        out.clear();
        let frame = read_frame(&mut stream)?;
        let (mut xid, op) = (i32::from_be_bytes(*frame.first_chunk()?), i32::from_be_bytes(*frame[4..].first_chunk()?));
        let request = Request::decode(op, &frame[8..]).expect("the program sends what decodes");
        let mut store = store.lock().unwrap();
        let mut body = Vec::new();
        let err = execute(&mut store, &request, fault, &mut body)?;
        if store.sets == 100 && matches!(request, Request::SetData { .. }) {
            match fault {
                Fault::WrongXid => xid += 1,
                Fault::LostReply => continue,
                _ => {}
            }
        }
        let mark = response::begin_reply(&mut out, xid, store.zxid as u64, err);
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

fn mixed(fault: Fault) -> (Option<i32>, String) {
    let options = "mixed -c 4 -o 5 -k 50 --ops 2000 --warmup 0 --reply-timeout-ms 1500 --read-percent 50";
    let output = run(start(fault), &options.split(' ').collect::<Vec<_>>());
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code(), text)
}

fn expect(fault: Fault, status: i32, words: &str) {
    let (code, text) = mixed(fault);
    assert!(code == Some(status) && text.contains(words), "{fault:?}: exit status {code:?}: {text}");
}

#[test]
fn a_right_server_passes() {
    expect(Fault::None, 0, "errors       0");
}

#[test]
fn a_wrong_request_id_ends_the_run() {
    expect(Fault::WrongXid, 2, "a reply was lost, repeated or overtaken");
}

#[test]
fn a_reply_that_never_comes_ends_the_run() {
    expect(Fault::LostReply, 2, "reply");
}

#[test]
fn a_broken_connection_ends_the_run() {
    expect(Fault::Hangup, 2, "connection");
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
fn the_other_scenarios_and_what_is_left_behind() {
    let address = start(Fault::None);
    let json = |arguments: &str| {
        let output = run(address, &[&arguments.split(' ').collect::<Vec<_>>()[..], &["--json"]].concat());
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    assert_eq!(json("create -c 3 -o 2 --ops 300 --warmup 0")["ops"], 300);
    assert_eq!(json("idle -n 20 -d 0.1")["errors"], 0);
    assert_eq!(json("clean")["ops"], 0, "create tidies up");
    let own = std::process::id().to_string();
    let filled = json(&format!("fill -n 2500 -c 2 -o 50 --server-pid {own}"));
    assert_eq!(filled["ops"], 2500);
    assert!(filled["bytes_per_node"].is_number() && filled["server_cpu_us_per_op"].as_f64().unwrap() > 0.0);
    let refused = run(address, &["get"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("has 3 children"));
    assert_eq!(json("set -c 2 -o 2 -k 10 --ops 100 --force")["write"]["ops"], 100);
    assert_eq!(json("clean")["ops"], 0);
}
