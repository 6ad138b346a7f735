//! What a server says, as our own client reads it: the first byte picks the request that is answered, the rest is the
//! stream. Records decode alone, too, and encode to the same bytes again.
#![no_main]

use falconer::client::{Event, Session, Ticket};
use falconer::wire::extension::opcode;
use falconer::wire::jute::Reader;
use falconer::wire::record::ConnectResponse;
use falconer::wire::request::Request;
use falconer::wire::response::{ReplyHeader, Response, WatchEvent};
use libfuzzer_sys::fuzz_target;

/// The opcodes of replies that have a record, those above a byte last.
fn opcode(byte: u8) -> i32 {
    match byte {
        252 => opcode::FILTERED_LIST,
        253 => opcode::CREATE_IF_NOT_EXISTS,
        254 => opcode::LIST_WITH_STATS_AND_DATA,
        255 => opcode::CHILDREN_PAGE,
        other => i32::from(other),
    }
}

fn record(op: i32, data: &[u8]) {
    let Ok(response) = Response::decode(op, &mut Reader::new(data)) else { return };
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    response.encode(&mut once);
    Response::decode(op, &mut Reader::new(&once)).expect("what we encode decodes").encode(&mut twice);
    assert_eq!(once, twice);
}

fn stream(data: &[u8]) {
    let mut session = Session::new(Ticket::default(), 5000);
    (0..4).for_each(|_| {
        session.send(&Request::Ping);
        session.send(&Request::GetData { path: "/".into(), watch: true });
    });
    for piece in data.chunks(7) {
        session.receive(piece);
        loop {
            match session.next_event() {
                Ok(Some(Event::Reply(reply))) => {
                    let _ = (reply.stat(), reply.data_and_stat(), reply.path(), reply.path_and_stat());
                    let _ = (reply.children(), reply.children_and_stat(), reply.children_page());
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((op, data)) = data.split_first() else { return };
    record(opcode(*op), data);
    let _ = ConnectResponse::decode(data);
    let mut reader = Reader::new(data);
    let _ = ReplyHeader::decode(&mut reader).and_then(|_| WatchEvent::decode(&mut reader));
    stream(data);
});
