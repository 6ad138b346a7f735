//! The first bytes of a connection: a four-letter word, a ConnectRequest, or nothing we know; and frames of an open one.
#![no_main]

use falconer::admin::fourletter;
use falconer::pipeline::bounds::Bounds;
use falconer::pipeline::conn::{Conn, Connect, Frame, Phase};
use falconer::pipeline::message::ConnId;
use falconer::wire::record::ConnectRequest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut conn = Conn::new(ConnId::new(0, 1), "127.0.0.1:9".parse().expect("an address"), [0; 16], 0);
    if let Frame::Whole(frame) = conn.frame(data, &Bounds::default(), fourletter::argument_bytes)
        && let Ok(request) = ConnectRequest::decode(frame)
    {
        Connect::of(&request);
        let mut again = Vec::new();
        request.encode(&mut again);
        assert_eq!(ConnectRequest::decode(&again[4..]), Ok(request));
    }
    conn.phase = Phase::Open;
    let mut rest = data;
    while let Frame::Whole(frame) = conn.frame(rest, &Bounds::default(), fourletter::argument_bytes) {
        rest = &rest[4 + frame.len()..];
    }
});
