//! The wire codec against what a real ZooKeeper says (`tests/golden/*.hex`): every request a client library would send
//! is read and reproduced to the byte, every reply and event too, and what ZooKeeper does not understand is refused
//! with the same error. Also: no frame, however damaged, is worse than malformed, and whatever is encoded reads back.

use falconer::wire::jute::{Reader, write_buffer, write_i32, write_string};
use falconer::wire::record::{ConnectRequest, ConnectResponse, Stat, xid as xids};
use falconer::wire::request::{AclList, Create, DecodeError, MultiOps, Request, SetWatches, StringList, opcode};
use falconer::wire::response::{self, OpResponse, ReplyHeader, Response, WatchEvent, code};
use proptest::prelude::*;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

/// ZooKeeper answers without a mechanism being configured; here, the opcode does not exist.
const SASL: i32 = 102;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    /// A frame that our encoder must reproduce.
    Request,
    /// A frame that no client library sends in this form.
    OddRequest,
    Reply,
    Closed,
}

struct Line {
    /// File, line number and the note before it, for messages.
    place: String,
    conn: char,
    kind: Kind,
    frame: Vec<u8>,
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn read_lines(path: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(path).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let (mut note, mut lines) = ("", Vec::new());
    for (at, line) in text.lines().enumerate() {
        if let Some(words) = line.strip_prefix("# ") {
            note = words;
            continue;
        }
        let (tag, hex) = line.split_once(' ').unwrap_or((line, ""));
        let mut tag = tag.chars();
        let conn = tag.next().unwrap();
        let kind = match tag.next().unwrap() {
            '>' => Kind::Request,
            '~' => Kind::OddRequest,
            '<' => Kind::Reply,
            '!' => Kind::Closed,
            sign => panic!("{name}:{}: what is '{sign}'?", at + 1),
        };
        lines.push(Line { place: format!("{name}:{} ({note})", at + 1), conn, kind, frame: unhex(hex) });
    }
    lines
}

fn scenarios() -> Vec<Vec<Line>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "hex")).collect();
    files.sort();
    assert!(files.len() >= 11, "the captured files are missing");
    files.iter().map(|path| read_lines(path)).collect()
}

/// A request whose reply has not been read.
struct Asked {
    op: i32,
    decoded: Result<(), DecodeError>,
}

/// What a reader of both directions of one connection knows.
#[derive(Default)]
struct Conversation {
    /// Whether the handshake asked about read-only mode; None before the handshake.
    read_only_field: Option<bool>,
    established: bool,
    asked: HashMap<i32, Asked>,
}

impl Conversation {
    fn request(&mut self, line: &Line) {
        let frame = line.frame.get(4..).unwrap_or(&[]);
        if self.read_only_field.is_none() {
            return self.connect_request(line, frame);
        }
        // A frame that is too short or too long to be a request: the connection ends, nothing to decode.
        let Some((xid, op, body)) = split(frame) else { return assert_eq!(line.kind, Kind::OddRequest, "{}", line.place) };
        let request = Request::decode(op, body);
        if line.kind == Kind::Request {
            let request = request.as_ref().unwrap_or_else(|e| panic!("{}: {e:?}", line.place));
            let mut again = Vec::new();
            request.encode_frame(xid, &mut again);
            assert_eq!(again, line.frame, "{}: {request:?}", line.place);
        }
        let xid = if op == opcode::PING { xids::PING } else { xid };
        self.asked.insert(xid, Asked { op, decoded: request.map(drop) });
    }

    fn connect_request(&mut self, line: &Line, frame: &[u8]) {
        match ConnectRequest::decode(frame) {
            Ok(request) => {
                self.read_only_field = Some(request.read_only.is_some());
                let mut again = Vec::new();
                request.encode(&mut again);
                assert!(again == line.frame || line.kind == Kind::OddRequest, "{}: {request:?}", line.place);
            }
            Err(_) => assert_eq!(line.kind, Kind::OddRequest, "{}", line.place),
        }
    }

    fn reply(&mut self, line: &Line) {
        let frame = &line.frame[4..];
        if !self.established {
            self.established = true;
            let read = ConnectResponse::decode(frame).unwrap();
            assert_eq!(Some(read.read_only.is_some()), self.read_only_field, "{}", line.place);
            let mut again = Vec::new();
            response::connect(&mut again, read.timeout_ms, read.session, read.password.try_into().unwrap(), read.read_only);
            return assert_eq!(again, line.frame, "{}: {read:?}", line.place);
        }
        let mut reader = Reader::new(frame);
        let header = ReplyHeader::decode(&mut reader).unwrap();
        match header.xid {
            xids::NOTIFICATION => event(line, &header, reader),
            xid => {
                let asked = self.asked.remove(&xid).unwrap_or_else(|| panic!("{}: nobody asked for xid {xid}", line.place));
                answer(line, &header, reader, &asked);
            }
        }
    }
}

fn split(frame: &[u8]) -> Option<(i32, i32, &[u8])> {
    let mut reader = Reader::new(frame);
    Some((reader.i32().ok()?, reader.i32().ok()?, reader.rest()))
}

fn event(line: &Line, header: &ReplyHeader, mut reader: Reader<'_>) {
    let event = WatchEvent::decode(&mut reader).unwrap();
    assert!(reader.rest().is_empty(), "{}", line.place);
    let mut again = Vec::new();
    response::watch_event(&mut again, header.zxid as u64, event.kind, &event.path);
    assert_eq!(again, line.frame, "{}: {event:?}", line.place);
}

fn answer(line: &Line, header: &ReplyHeader, mut reader: Reader<'_>, asked: &Asked) {
    check_error(line, header, asked);
    // Only a client that sends writes as multiRead sees a record behind an error.
    if asked.op == SASL || header.err != code::OK && asked.op == opcode::MULTI_READ {
        return;
    }
    let mut again = Vec::new();
    if header.err != code::OK {
        response::reply(&mut again, header.xid, header.zxid as u64, header.err);
        return assert_eq!(again, line.frame, "{}", line.place);
    }
    let record = Response::decode(asked.op, &mut reader).unwrap_or_else(|e| panic!("{}: {e}", line.place));
    assert!(reader.rest().is_empty(), "{}: {record:?} leaves bytes", line.place);
    let mark = response::begin_reply(&mut again, header.xid, header.zxid as u64, code::OK);
    record.encode(&mut again);
    response::end_frame(&mut again, mark);
    assert_eq!(again, line.frame, "{}: {record:?}", line.place);
    refused_multi(line, header, &record);
}

/// A failed multi is also what the server's own encoder makes of the codes.
fn refused_multi(line: &Line, header: &ReplyHeader, record: &Response<'_>) {
    let Response::Multi(results) = record else { return };
    let codes: Vec<i32> = results.iter().filter_map(|r| r.result.as_ref().err().copied()).collect();
    if !results.is_empty() && codes.len() == results.len() {
        let mut again = Vec::new();
        response::multi_refused(&mut again, header.xid, header.zxid as u64, codes.into_iter());
        assert_eq!(again, line.frame, "{}", line.place);
    }
}

/// Both sides agree on which requests cannot be understood.
fn check_error(line: &Line, header: &ReplyHeader, asked: &Asked) {
    // These are numbers inside an intact record, judged when it is executed; and an id that is null, which is an
    // invalid list here and an exception there.
    let judged_later = matches!(asked.op, opcode::ADD_WATCH | opcode::CHECK_WATCHES | opcode::REMOVE_WATCHES)
        || line.place.contains("null id in the list");
    match asked.decoded {
        Ok(()) if judged_later => {}
        Ok(()) => assert!(!matches!(header.err, code::MARSHALLING_ERROR | code::UNIMPLEMENTED), "{}: {header:?}", line.place),
        Err(DecodeError::Malformed) => assert_eq!(header.err, code::MARSHALLING_ERROR, "{}", line.place),
        Err(DecodeError::Unimplemented) if asked.op == SASL => assert_eq!(header.err, code::OK),
        Err(DecodeError::Unimplemented) => assert_eq!((header.err, header.zxid), (code::UNIMPLEMENTED, -1), "{}", line.place),
    }
}

#[test]
fn every_captured_frame_is_understood_and_reproduced() {
    let mut frames = 0;
    for lines in scenarios() {
        let mut conversations: HashMap<char, Conversation> = HashMap::new();
        for line in &lines {
            let conversation = conversations.entry(line.conn).or_default();
            match line.kind {
                Kind::Request | Kind::OddRequest => conversation.request(line),
                Kind::Reply => conversation.reply(line),
                Kind::Closed => continue,
            }
            frames += 1;
        }
        let closed = |conn| lines.iter().any(|line| line.conn == conn && line.kind == Kind::Closed);
        let unanswered = conversations.iter().find(|(conn, conversation)| !conversation.asked.is_empty() && !closed(**conn));
        assert!(unanswered.is_none(), "{}: {:?} waits for a reply", lines[0].place, unanswered.map(|(conn, _)| conn));
    }
    assert!(frames > 800, "only {frames} frames");
}

/// The frame, without length, that answers the request behind a note.
fn reply_to<'a>(lines: &'a [Line], note: &str) -> (i32, &'a [u8]) {
    let at = lines.iter().position(|line| line.place.ends_with(&format!("({note})"))).unwrap_or_else(|| panic!("no {note}"));
    let (xid, op, _) = split(&lines[at].frame[4..]).unwrap();
    let replies = lines[at..].iter().filter(|line| line.kind == Kind::Reply && line.conn == lines[at].conn);
    let reply = replies.map(|line| &line.frame[4..]).find(|frame| frame.starts_with(&xid.to_be_bytes())).unwrap();
    (op, reply)
}

/// Reproducing bytes does not show that fields have the right names; known values do.
#[test]
fn fields_mean_what_they_should() {
    let all = scenarios();
    let file = |name: &str| all.iter().find(|lines| lines[0].place.starts_with(name)).unwrap();
    let record = |name, note| {
        let (op, frame) = reply_to(file(name), note);
        Response::decode(op, &mut Reader::new(&frame[16..])).unwrap()
    };
    let stat = |name, note| match record(name, note) {
        Response::Stat(stat) | Response::Data(_, stat) | Response::Acl(_, stat) => stat,
        other => panic!("{other:?} has no Stat"),
    };
    let a = stat("reads.hex", "exists /a");
    let counted = Stat { czxid: 2, mzxid: 2, version: 0, cversion: 3, data_length: 4, num_children: 3, pzxid: 5, ..a };
    assert_eq!((a, a.ephemeral_owner, a.ctime, a.ctime > 1 << 40), (counted, 0, a.mtime, true));
    let session = ConnectResponse::decode(&file("reads.hex")[1].frame[4..]).unwrap().session;
    assert_eq!(stat("reads.hex", "exists /a/e").ephemeral_owner, session);
    let changed = stat("writes.hex", "setData, right version");
    assert_eq!((changed.version, changed.czxid, changed.mzxid, changed.aversion), (2, 2, 4, 0));
    let guarded = stat("writes.hex", "setACL with a duplicate");
    assert_eq!((guarded.aversion, guarded.version, guarded.mzxid), (2, 4, 7));
    let Response::Acl(acl, _) = record("authentication.hex", "getACL hides the hashes") else { panic!("no list") };
    let entries: Vec<_> = acl.iter().map(|entry| (entry.perms, entry.scheme, entry.id)).collect();
    // The list as it was given; `auth` became both identities, in the order of a Java hash set.
    assert_eq!(entries, [(1, "world", "anyone"), (31, "digest", "alice:x"), (31, "digest", "bob:x"), (31, "digest", "alice:x")]);
}

/// Decodes a request, and if that works, its own encoding too: they must agree.
fn survives(op: i32, body: &[u8]) {
    let Ok(request) = Request::decode(op, body) else { return };
    let mut again = Vec::new();
    request.encode(&mut again);
    let reread = Request::decode(op, &again).expect("our own encoding");
    assert_eq!(format!("{reread:?}"), format!("{request:?}"));
}

#[test]
fn damaged_frames_are_at_worst_malformed() {
    for line in scenarios().iter().flatten().filter(|line| line.frame.len() > 12) {
        let (op, body) = (i32::from_be_bytes(line.frame[8..12].try_into().unwrap()), &line.frame[12..]);
        let asks = matches!(line.kind, Kind::Request | Kind::OddRequest);
        let mut damaged = body.to_vec();
        for at in 0..body.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff, body[at].wrapping_add(1)] {
                damaged[at] = value;
                if asks {
                    survives(op, &damaged);
                } else {
                    read_as_everything(&damaged);
                }
            }
            damaged[at] = body[at];
            if asks {
                survives(op, &body[..at]);
            } else {
                read_as_everything(&body[..at]);
            }
        }
    }
}

/// A client must survive any reply, whatever it asked for.
fn read_as_everything(body: &[u8]) {
    for op in [opcode::CREATE, opcode::CREATE2, opcode::GET_DATA, opcode::GET_CHILDREN2, opcode::GET_ACL, opcode::WHO_AM_I, opcode::MULTI] {
        // The header's zxid and error stand before the record.
        let _ = Response::decode(op, &mut Reader::new(body.get(8..).unwrap_or(&[])));
    }
    let _ = WatchEvent::decode(&mut Reader::new(body));
    let _ = ConnectResponse::decode(body);
}

/// The values that requests and responses are made of.
#[derive(Debug)]
struct Values {
    path: String,
    data: Option<Vec<u8>>,
    numbers: (i32, i64, bool),
    acl: Vec<u8>,
    paths: Vec<u8>,
    stat: Stat,
}

fn values() -> impl Strategy<Value = Values> {
    let acl = prop::collection::vec((any::<i32>(), ".{0,9}", ".{0,9}"), 0..4).prop_map(|entries| {
        let mut encoded = Vec::new();
        write_i32(&mut encoded, entries.len() as i32);
        for (perms, scheme, id) in entries {
            write_i32(&mut encoded, perms);
            write_string(&mut encoded, &scheme);
            write_buffer(&mut encoded, Some(id.as_bytes()));
        }
        encoded
    });
    let paths = prop::collection::vec(".{0,20}", 0..5).prop_map(|paths| {
        let mut encoded = Vec::new();
        write_i32(&mut encoded, paths.len() as i32);
        paths.iter().for_each(|path| write_string(&mut encoded, path));
        encoded
    });
    let stat = any::<[u8; 68]>().prop_map(|bytes| Stat::decode(&mut Reader::new(&bytes)).expect("68 bytes"));
    let numbers = (any::<i32>(), any::<i64>(), any::<bool>());
    (".{0,40}", any::<Option<Vec<u8>>>(), numbers, acl, paths, stat).prop_map(|(path, data, numbers, acl, paths, stat)| Values {
        path,
        data,
        numbers,
        acl,
        paths,
        stat,
    })
}

/// Requests that may stand in a multi.
fn changes(v: &Values) -> Vec<Request<'_>> {
    let (path, data, (number, long, _)) = (Cow::Borrowed(v.path.as_str()), v.data.as_deref(), v.numbers);
    let acl = AclList::from_encoded(&v.acl).unwrap();
    let create = Create { path: path.clone(), data, acl, flags: number.rem_euclid(5) };
    vec![
        Request::Create(create.clone()),
        Request::Create2(create.clone()),
        Request::CreateContainer(create.clone()),
        Request::CreateTtl(create, long),
        Request::Delete { path: path.clone(), version: number },
        Request::SetData { path: path.clone(), data, version: number },
        Request::Check { path, version: number },
    ]
}

fn reads(v: &Values) -> Vec<Request<'_>> {
    let (path, watch) = (Cow::Borrowed(v.path.as_str()), v.numbers.2);
    vec![Request::GetData { path: path.clone(), watch }, Request::GetChildren { path, watch }]
}

fn others(v: &Values) -> Vec<Request<'_>> {
    let (path, (number, long, watch)) = (Cow::Borrowed(v.path.as_str()), v.numbers);
    let list = StringList::from_encoded(&v.paths).unwrap();
    let set = SetWatches { relative_zxid: long, data: list, exist: list, child: list, persistent: list, persistent_recursive: list };
    let set_101 = SetWatches { persistent: StringList::default(), persistent_recursive: StringList::default(), ..set.clone() };
    vec![
        Request::Exists { path: path.clone(), watch },
        Request::GetChildren2 { path: path.clone(), watch },
        Request::GetAcl { path: path.clone() },
        Request::SetAcl { path: path.clone(), acl: AclList::from_encoded(&v.acl).unwrap(), version: number },
        Request::Sync { path: path.clone() },
        Request::CheckWatches { path: path.clone(), kind: number },
        Request::RemoveWatches { path: path.clone(), kind: number },
        Request::AddWatch { path: path.clone(), mode: number },
        Request::GetEphemerals { prefix: path.clone() },
        Request::GetAllChildrenNumber { path: path.clone() },
        Request::Auth { scheme: path, credentials: v.data.as_deref() },
        Request::SetWatches(set_101),
        Request::SetWatches2(set),
    ]
}

fn reads_back(request: &Request<'_>) {
    let mut frame = Vec::new();
    request.encode_frame(7, &mut frame);
    assert_eq!(split(&frame[4..]).map(|(xid, op, _)| (xid, op)), Some((7, request.opcode())));
    let again = Request::decode(request.opcode(), &frame[12..]).unwrap();
    assert_eq!(format!("{again:?}"), format!("{request:?}"));
}

fn responses(v: &Values) -> Vec<(i32, Response<'_>)> {
    let (path, data, stat) = (Cow::Borrowed(v.path.as_str()), v.data.as_deref(), v.stat);
    let names = StringList::from_encoded(&v.paths).unwrap();
    vec![
        (opcode::CREATE, Response::Path(path.clone())),
        (opcode::CREATE2, Response::Created(path.clone(), stat)),
        (opcode::SET_DATA, Response::Stat(stat)),
        (opcode::GET_DATA, Response::Data(data, stat)),
        (opcode::GET_CHILDREN, Response::Names(names)),
        (opcode::DELETE, Response::Done),
        (opcode::GET_CHILDREN2, Response::Children(names, stat)),
        (opcode::GET_ACL, Response::Acl(AclList::from_encoded(&v.acl).unwrap(), stat)),
        (opcode::GET_ALL_CHILDREN_NUMBER, Response::Number(v.numbers.0)),
        (opcode::WHO_AM_I, Response::Identities(vec![(path.clone(), path.clone()), ("ip".into(), path)])),
    ]
}

fn response_reads_back(op: i32, response: &Response<'_>) {
    let mut bytes = Vec::new();
    response.encode(&mut bytes);
    let mut reader = Reader::new(&bytes);
    let again = Response::decode(op, &mut reader).unwrap();
    assert_eq!((format!("{again:?}"), reader.rest().len()), (format!("{response:?}"), 0));
    for end in 0..bytes.len() {
        assert!(Response::decode(op, &mut Reader::new(&bytes[..end])).is_err(), "{op} cut at {end}");
    }
}

proptest! {
    #[test]
    fn requests_read_back(v in values()) {
        changes(&v).iter().filter(|request| request.opcode() != opcode::CHECK).for_each(reads_back);
        reads(&v).iter().chain(&others(&v)).for_each(reads_back);
        let (writes, gets) = (MultiOps::encode_ops(&changes(&v)), MultiOps::encode_ops(&reads(&v)));
        let multi = MultiOps::from_encoded(&writes).unwrap();
        prop_assert_eq!(format!("{:?}", multi.iter().collect::<Vec<_>>()), format!("{:?}", changes(&v)));
        reads_back(&Request::Multi(multi));
        reads_back(&Request::MultiRead(MultiOps::from_encoded(&gets).unwrap()));
    }

    #[test]
    fn responses_read_back(v in values()) {
        let all = responses(&v);
        all.iter().for_each(|(op, response)| response_reads_back(*op, response));
        // The first six are those that a multi or multiRead can have.
        let inside = all.into_iter().take(6).map(|(kind, response)| OpResponse { kind, result: Ok(response) });
        let failed = OpResponse { kind: -1, result: Err(v.numbers.0) };
        response_reads_back(opcode::MULTI, &Response::Multi(inside.chain([failed]).collect()));
    }
}
