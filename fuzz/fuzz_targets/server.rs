//! A whole server under a hostile client: the input is a script of what that client sends, in which pieces and when, over
//! several connections. The server must not panic, must stay within its bounds (asserted by the harness), and bystanders on
//! both shards must notice nothing: their connections, pings, writes, reads, watches and ephemeral nodes are as if they were
//! alone.
#![no_main]

use falconer::wire::extension::{Extension, Filter, Page};
use falconer::wire::jute::Reader;
use falconer::wire::request::{AclList, Create, MultiOps, OPEN_ACL, Request};
use falconer::wire::response::{ReplyHeader, code};
use falconer_fuzz::input::Input;
use falconer_fuzz::server::{Client, SHARDS, Server};
use libfuzzer_sys::fuzz_target;
use std::borrow::Cow;

const OPCODES: &[i32] = &[
    500, 501, 502, 503, 504, 505, 506, 2000, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 21, 22, 100, 101, 103, 104,
    105, 106, 107, -11, -10, -12, 0, 20,
];
const PATHS: &[&str] =
    &["/", "/a", "/a/b", "/c", "/c/s-", "/quiet", "/quiet/n", "/quiet/e", "/calm", "/calm/n", "/zookeeper/config", "/a/", "bad", ""];
/// Steps of one script, at most.
const STEPS_MAX: usize = 400;
/// Who may touch the bystanders' nodes.
const SECRET: &[u8] = b"bystander:4dZ9-kk2Lq-77";

/// A client whose nodes nobody else may touch: one that changes, and an ephemeral one that lives as long as its session.
struct Bystander {
    client: Client,
    changing: String,
    ephemeral: String,
    value: u32,
    xid: i32,
}

impl Bystander {
    fn new(server: &mut Server, shard: usize, base: &str) -> Bystander {
        let client = server.session(shard, [0xb5; 16]);
        let (changing, ephemeral) = (format!("{base}/n"), format!("{base}/e"));
        let mut bystander = Bystander { client, changing, ephemeral, value: 0, xid: 0 };
        server.request(client, -4, &Request::Auth { scheme: "digest".into(), credentials: Some(SECRET) });
        let mut acl = vec![0, 0, 0, 1, 0, 0, 0, 31];
        for text in ["auth", ""] {
            falconer::wire::jute::write_string(&mut acl, text);
        }
        let acl = AclList::from_encoded(&acl).expect("a list of one");
        for (path, flags) in [(base, 0), (&bystander.changing, 0), (&bystander.ephemeral, 1)] {
            server.request(client, 1, &Request::Create(Create { path: path.into(), data: Some(&[0; 4]), acl, flags }));
        }
        server.settle();
        assert!(bystander.frames(server).iter().all(|f| f.0.err == code::OK));
        bystander
    }

    fn frames(&mut self, server: &mut Server) -> Vec<(ReplyHeader, Vec<u8>)> {
        assert!(!server.is_closed(self.client), "the bystander's connection stays");
        let bytes = server.take_received(self.client);
        let (mut rest, mut frames) = (&bytes[..], Vec::new());
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            let (frame, tail) = tail.split_at(u32::from_be_bytes(*len) as usize);
            let mut reader = Reader::new(frame);
            frames.push((ReplyHeader::decode(&mut reader).expect("a header"), reader.rest().to_vec()));
            rest = tail;
        }
        frames
    }

    /// Ping, watched read, write, read, and a look at the ephemeral node: in this order, with the event before the write's
    /// reply.
    fn check(&mut self, server: &mut Server) {
        let (before, after) = (self.value.to_be_bytes(), (self.value + 1).to_be_bytes());
        let version = self.value as i32;
        self.value += 1;
        self.xid += 4;
        let [read, write, again, alive] = [self.xid, self.xid + 1, self.xid + 2, self.xid + 3];
        let path = || self.changing.as_str().into();
        server.request(self.client, -2, &Request::Ping);
        server.request(self.client, read, &Request::GetData { path: path(), watch: true });
        server.request(self.client, write, &Request::SetData { path: path(), data: Some(&after), version });
        server.request(self.client, again, &Request::GetData { path: path(), watch: false });
        server.request(self.client, alive, &Request::Exists { path: self.ephemeral.as_str().into(), watch: false });
        server.settle();
        let frames = self.frames(server);
        let heads: Vec<_> = frames.iter().map(|f| (f.0.xid, f.0.err)).collect();
        assert_eq!(heads, [(-2, 0), (read, 0), (-1, 0), (write, 0), (again, 0), (alive, 0)]);
        assert_eq!(Reader::new(&frames[1].1).buffer(), Ok(Some(&before[..])));
        assert_eq!(Reader::new(&frames[4].1).buffer(), Ok(Some(&after[..])));
    }
}

/// A request that parses, made of few paths so that scripts meet themselves.
fn plausible(input: &mut Input<'_>, frame: &mut Vec<u8>) {
    let path: Cow<'_, str> = input.pick(PATHS).into();
    let (flag, number) = (input.u8(), i32::from(input.u8() as i8));
    let len = usize::from(input.u8());
    let data = (flag & 2 != 0).then(|| input.bytes(len));
    let watch = flag & 1 != 0;
    let create = Create { path: path.clone(), data, acl: OPEN_ACL, flags: number.rem_euclid(8) };
    let request = match flag >> 2 & 31 {
        0..=4 => Request::Create(create),
        5 => Request::Create2(create),
        6 => Request::CreateContainer(Create { flags: 4, ..create }),
        7 => Request::CreateTtl(Create { flags: 5 + (number & 1), ..create }, i64::from(number) * 100),
        8..=10 => Request::Delete { path, version: number.min(2) },
        11 | 12 => Request::SetData { path, data, version: number.clamp(-1, 2) },
        13 => Request::GetData { path, watch },
        14 => Request::GetChildren2 { path, watch },
        15 => Request::Exists { path, watch },
        16 => Request::Sync { path },
        17 => Request::AddWatch { path, mode: number & 3 },
        18 => Request::RemoveWatches { path, kind: number & 7 },
        19 => Request::SetAcl { path, acl: OPEN_ACL, version: -1 },
        20 => Request::CloseSession,
        21 => Request::GetEphemerals { prefix: path },
        22 => Request::Auth { scheme: "digest".into(), credentials: Some(input.bytes(len)) },
        23 => Request::WhoAmI,
        24 => Request::GetAllChildrenNumber { path },
        25 => Request::GetAcl { path },
        26 => Request::GetChildren { path, watch },
        27 => Request::Ping,
        28 => Request::Extension(extension(input.u8(), path, create, number, watch)),
        _ => return multi(input, frame),
    };
    request.encode_frame(i32::from(input.u8()), frame);
}

/// One of the requests that ZooKeeper does not know.
fn extension<'a>(which: u8, path: Cow<'a, str>, create: Create<'a>, number: i32, watch: bool) -> Extension<'a> {
    let (version, filter) = (number.clamp(-1, 2), [Filter::All, Filter::Persistent, Filter::Ephemeral][number.rem_euclid(3) as usize]);
    match which % 8 {
        0 | 1 => Extension::RemoveRecursive { path, nodes_max: number.rem_euclid(8) as u32 },
        2 => Extension::CreateIfNotExists(create),
        3 => Extension::TryRemove { path, version },
        4 => Extension::FilteredList { path, watch, filter },
        5 => Extension::ListWithStatsAndData { path, watch, filter, stats: number & 1 != 0, data: number & 2 != 0 },
        6 => Extension::CheckNotExists { path, version },
        _ => Extension::ChildrenPage(Page { path, after: "a".into(), names_max: number, bytes_max: 0, watch }),
    }
}

/// A multi of writes on the same few paths.
fn multi(input: &mut Input<'_>, frame: &mut Vec<u8>) {
    let mut ops = Vec::new();
    let count = input.u8() % 6;
    let paths: Vec<&str> = (0..count).map(|_| input.pick(PATHS)).collect();
    for path in &paths {
        let version = i32::from(input.u8() as i8).clamp(-1, 2);
        ops.push(match input.u8() % 8 {
            0 | 1 => Request::Create(Create { path: (*path).into(), data: None, acl: OPEN_ACL, flags: version.rem_euclid(4) }),
            2 => Request::Delete { path: (*path).into(), version },
            3 => Request::SetData { path: (*path).into(), data: Some(b"m"), version },
            4 => Request::Extension(Extension::RemoveRecursive { path: (*path).into(), nodes_max: 9 }),
            5 => Request::Extension(Extension::CheckNotExists { path: (*path).into(), version }),
            6 => Request::Extension(Extension::TryRemove { path: (*path).into(), version }),
            _ => Request::Check { path: (*path).into(), version },
        });
    }
    let raw = MultiOps::encode_ops(&ops);
    Request::Multi(MultiOps::from_encoded(&raw).expect("a multi of writes")).encode_frame(9, frame);
}

/// A frame with a known opcode and any record.
fn half_known(input: &mut Input<'_>, frame: &mut Vec<u8>) {
    let op = input.pick(OPCODES);
    let len = usize::from(input.u8());
    let body = input.bytes(len);
    frame.extend_from_slice(&(8 + body.len() as i32).to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0, 5]);
    frame.extend_from_slice(&op.to_be_bytes());
    frame.extend_from_slice(body);
}

struct Hostile {
    clients: [Client; 3],
    sessions: [i64; 3],
}

impl Hostile {
    fn step(&mut self, server: &mut Server, bystanders: &mut [Bystander], input: &mut Input<'_>) {
        let choice = input.u8();
        let who = usize::from(choice >> 6) % 3;
        let client = self.clients[who];
        let mut frame = Vec::new();
        match choice & 15 {
            0..=5 => plausible(input, &mut frame),
            6 | 7 => half_known(input, &mut frame),
            8 => {
                let len = usize::from(input.u8());
                frame.extend_from_slice(input.bytes(len));
            }
            9 => server.settle(),
            10 => {
                server.wait(u64::from(input.u8()) * 20);
                bystanders.iter_mut().for_each(|bystander| bystander.check(server));
            }
            11 => bystanders.iter_mut().for_each(|bystander| bystander.check(server)),
            12 => {
                server.hang_up(client);
                self.clients[who] = server.open(usize::from(input.u8()) % SHARDS, [1 + who as u8; 16]);
            }
            13 => {
                let [session, password] = [self.sessions[usize::from(input.u8()) % 3], i64::from(input.u8())];
                let session = if password & 1 == 0 { session } else { 0 };
                let entropy = [1 + who as u8; 16];
                if let Some((fresh, session)) = server.connect(usize::from(input.u8()) % SHARDS, session, entropy, entropy) {
                    (self.clients[who], self.sessions[who]) = (fresh, session);
                }
            }
            14 => server.listen(client, false),
            _ => server.listen(client, true),
        }
        let split = usize::from(choice >> 4 & 3) * frame.len() / 4;
        server.receive(client, &frame[..split]);
        server.receive(client, &frame[split..]);
    }
}

fuzz_target!(|data: &[u8]| {
    let mut server = Server::new(1);
    let mut bystanders = [(0, "/quiet"), (1, "/calm")].map(|(shard, base)| Bystander::new(&mut server, shard, base));
    let connected = [0, 1, 0].map(|shard| server.connect(shard, 0, [0; 16], [shard as u8 + 1; 16]).expect("a new session"));
    let mut hostile = Hostile { clients: connected.map(|c| c.0), sessions: connected.map(|c| c.1) };
    let mut input = Input(data);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        hostile.step(&mut server, &mut bystanders, &mut input);
    }
    bystanders.iter_mut().for_each(|bystander| bystander.check(&mut server));
});
