"""Handshake, sessions, framing and what happens to a connection that breaks the rules, byte by byte."""

import struct
import time

import pytest
import wire
from wire import *  # noqa: F403

NO_SESSION = wire.Handshake(0, 0, 0, bytes(16), False)


# Handshake


def test_a_45_byte_handshake_is_answered_with_the_read_only_byte(raw):
    connection = raw()
    connection.send_frame(connection.handshake_record(timeout_ms=4000))
    frame = connection.receive_frame()
    assert len(frame) == 37
    protocol, timeout_ms, session, length = struct.unpack(">iiqi", frame[:20])
    assert (protocol, timeout_ms, length, frame[36]) == (0, 4000, 16, 0)
    assert session not in (0, -(2**63))


def test_a_44_byte_handshake_is_answered_without_it(raw):
    connection = raw()
    record = connection.handshake_record(read_only=None)
    assert len(record) == 44
    connection.send_frame(record)
    assert len(connection.receive_frame()) == 36


def test_read_only_clients_get_a_server_that_also_writes(raw, base):
    connection = raw()
    assert connection.handshake(read_only=True).read_only is False
    connection.create(base + "/a")


@pytest.mark.parametrize("asked, given", [(-1, 1000), (0, 1000), (1, 1000), (1000, 1000), (7777, 7777), (2**31 - 1, 10000)])
def test_the_timeout_is_clamped_to_2_and_20_ticks(raw, asked, given):
    assert raw().handshake(timeout_ms=asked).timeout_ms == given


def test_protocol_version_is_answered_with_0(raw):
    assert raw().handshake(protocol=7).protocol == 0


def test_sessions_differ(connect):
    hellos = [connect().hello for _ in range(20)]
    assert len({hello.session for hello in hellos}) == 20
    assert len({hello.password for hello in hellos}) == 20


def test_a_session_is_renewed_on_another_connection(connect, raw, base):
    first = connect(timeout_ms=5000)
    first.create(base + "/mine", flags=wire.EPHEMERAL)
    first.close()
    second = raw()
    hello = second.handshake(session=first.hello.session, password=first.hello.password, timeout_ms=4000)
    assert (hello.session, hello.password, hello.timeout_ms) == (first.hello.session, first.hello.password, 4000)
    assert second.exists(base + "/mine").ephemeral_owner == hello.session


def test_a_wrong_password_is_answered_with_no_session(connect, raw):
    first, second = connect(), raw()
    assert second.handshake(session=first.hello.session, password=b"x" * 16) == NO_SESSION
    assert second.is_closed()
    right = raw()
    assert right.handshake(session=first.hello.session, password=first.hello.password).session == first.hello.session


@pytest.mark.falconer_only("ZooKeeper closes the old connection before it looks at the password")
def test_a_wrong_password_does_not_disturb_the_session(connect, raw):
    first = connect()
    raw().handshake(session=first.hello.session, password=b"x" * 16)
    assert first.exists("/") is not None


def test_short_and_long_passwords_are_wrong(connect, raw):
    first = connect()
    for password in (b"", b"x", first.hello.password[:15], first.hello.password + b"\0", None):
        second = raw()
        assert second.handshake(session=first.hello.session, password=password) == NO_SESSION
        assert second.is_closed()


def test_unknown_and_closed_sessions_are_answered_with_no_session(connect, raw):
    unknown = raw()
    assert unknown.handshake(session=0x7777777777777777) == NO_SESSION
    assert unknown.is_closed()
    first = connect()
    first.ok(CLOSE_SESSION)
    second = raw()
    assert second.handshake(session=first.hello.session, password=first.hello.password) == NO_SESSION
    assert second.is_closed()


def test_a_second_connection_of_a_session_closes_the_first(connect, raw, base):
    first = connect()
    first.create(base + "/mine", flags=wire.EPHEMERAL)
    first.exists(base + "/mine", watch=True)
    second = raw()
    assert second.handshake(session=first.hello.session, password=first.hello.password).session == first.hello.session
    assert first.is_closed()
    assert second.exists(base + "/mine") is not None
    # Watches belong to the connection.
    second.set_data(base + "/mine", b"new")
    assert second.take_events() == []


def test_a_client_that_has_seen_more_than_the_server_is_closed_without_an_answer(client, raw):
    zxid = client.call(PING, xid=-2).zxid
    ahead = raw()
    ahead.send_frame(ahead.handshake_record(last_zxid=zxid + (1 << 31)))
    assert ahead.is_closed()
    assert raw().handshake(last_zxid=zxid).session != 0


def test_handshake_auth_and_requests_in_one_write(raw, base):
    connection = raw()
    parts = [connection.handshake_record()]
    parts.append(i32(-4) + i32(AUTH) + auth_record("digest", b"u:p"))
    mine = [(31, "auth", "")]
    parts.append(i32(1) + i32(CREATE) + create_record(base + "/a", b"data", mine))
    parts.append(i32(2) + i32(GET_DATA) + path_watch(base + "/a"))
    parts.append(i32(3) + i32(CLOSE_SESSION))
    connection.send_raw(b"".join(i32(len(part)) + part for part in parts))
    assert connection.read_handshake().session != 0
    auth = connection.receive_reply()
    assert (auth.xid, auth.zxid, auth.err) == (-4, 0, 0)
    replies = [connection.receive_reply() for _ in range(3)]
    assert [(reply.xid, reply.err) for reply in replies] == [(1, 0), (2, 0), (3, 0)]
    assert replies[1].body.buffer() == b"data"
    assert connection.is_closed()


# Life and end of a session


def test_a_silent_session_expires_and_its_connection_is_closed(connect, client, base):
    silent = connect(timeout_ms=1000)
    silent.create(base + "/mine", flags=wire.EPHEMERAL)
    began = time.monotonic()
    client.exists(base + "/mine", watch=True)
    event = client.next_event()
    took = time.monotonic() - began
    assert (event.kind, event.path) == (wire.DELETED, base + "/mine")
    assert 0.9 <= took <= 3.0, f"a session of 1 s with ticks of 0.5 s expired after {took:.2f} s"
    assert silent.is_closed()


def test_pings_keep_a_session(connect, client, base):
    kept = connect(timeout_ms=1000)
    kept.create(base + "/mine", flags=wire.EPHEMERAL)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        kept.call(PING, xid=-2)
        time.sleep(0.3)
    assert client.exists(base + "/mine").ephemeral_owner == kept.hello.session


def test_close_session_replies_then_closes_and_ephemerals_go(connect, client, base):
    closing = connect()
    for name in ("b", "a", "c"):
        closing.create(f"{base}/{name}", flags=wire.EPHEMERAL)
        client.exists(f"{base}/{name}", watch=True)
    reply = closing.call(CLOSE_SESSION)
    assert (reply.err, reply.body.data[reply.body.at :]) == (0, b"")
    assert closing.is_closed()
    assert client.children(base)[0] == []
    events = [(event.kind, event.path, event.zxid) for event in client.events]
    assert sorted(events) == [(wire.DELETED, f"{base}/{name}", reply.zxid) for name in ("a", "b", "c")]


def test_requests_are_executed_even_if_the_client_has_left(connect, client, base):
    """kazoo sends closeSession and closes the socket at once."""
    for number in range(20):
        leaving = connect()
        leaving.create(f"{base}/e{number}", flags=wire.EPHEMERAL)
        leaving.send(CREATE, create_record(f"{base}/n{number}"))
        leaving.send(CLOSE_SESSION)
        leaving.close()
        wire.eventually(lambda: client.exists(f"{base}/e{number}") is None, within_s=3)
        assert client.exists(f"{base}/n{number}") is not None


def test_nothing_behind_close_session_is_executed(connect, client, base):
    closing = connect()
    closing.send_raw(
        b"".join(
            i32(len(part)) + part
            for part in (i32(1) + i32(CLOSE_SESSION), i32(2) + i32(CREATE) + create_record(base + "/late"))
        )
    )
    assert closing.receive_reply().xid == 1
    try:
        assert closing.receive_reply().err != 0
    except wire.Closed:
        pass
    assert client.exists(base + "/late") is None


# Special requests


def test_ping_is_answered_in_order_with_xid_minus_2_and_the_last_zxid(client, base):
    create = client.send(CREATE, create_record(base + "/a"))
    client.send(PING, xid=-2)
    client.send(PING, xid=77)
    get = client.send(GET_DATA, path_watch(base + "/a"))
    replies = [client.receive_reply() for _ in range(4)]
    assert [reply.xid for reply in replies] == [create, -2, -2, get]
    assert all(reply.err == 0 and reply.zxid >= replies[0].zxid for reply in replies)
    replies[1].body.end()


def test_auth_is_answered_with_zxid_0(client):
    reply = client.auth("digest", b"user:password")
    assert (reply.xid, reply.zxid, reply.err) == (-4, 0, 0)


@pytest.mark.parametrize("scheme", ["nosuch", "", "super"])
def test_auth_of_an_unknown_scheme_fails_and_closes(client, scheme):
    reply = client.auth(scheme, b"x")
    assert (reply.xid, reply.zxid, reply.err) == (-4, 0, AUTH_FAILED)
    assert client.is_closed()


@pytest.mark.parametrize("op", [10, 23, 99, 108, 9999, -2, -12, 2**31 - 1, CHECK])
def test_unknown_opcodes_are_refused_and_close(client, op):
    reply = client.call(op, path_version("/"))
    assert (reply.zxid, reply.err) == (-1, UNIMPLEMENTED)
    assert client.is_closed()


@pytest.mark.falconer_only("ZooKeeper lets clients send what only servers should")
@pytest.mark.parametrize("op", [DELETE_CONTAINER, CREATE_SESSION])
def test_internal_opcodes_are_refused_and_close(client, base, op):
    record = string(base) if op == DELETE_CONTAINER else i32(4000)
    assert client.code(op, record) == UNIMPLEMENTED
    assert client.is_closed()


@pytest.mark.falconer_only("ZooKeeper refuses and closes without waiting for earlier replies")
def test_requests_before_the_unknown_opcode_are_answered(client, base):
    client.send(CREATE, create_record(base + "/a"))
    client.send(12345)
    assert [client.receive_reply().err for _ in range(2)] == [0, UNIMPLEMENTED]


def test_sync_gives_the_path_back(client, base):
    for path in (base, "/no/such/node"):
        body = client.ok(SYNC, string(path))
        assert body.string() == path
        body.end()


# Frames


@pytest.mark.parametrize("length", [-1, -(2**31), wire.FRAME_MAX + 1, 2**31 - 1])
def test_absurd_lengths_close(connect, raw, length):
    """Falconer may say why, on the xid, before it closes; ZooKeeper is silent."""
    connection = connect()
    connection.send_raw(i32(length) + i32(5) + i32(EXISTS) + path_watch("/"))
    try:
        assert connection.receive_reply()[::2] == (5, BAD_ARGUMENTS)
    except wire.Closed:
        pass
    assert connection.is_closed()
    fresh = raw()
    fresh.send_raw(i32(length) + fresh.handshake_record())
    assert fresh.is_closed()


@pytest.mark.parametrize("length", [0, 4, 7])
def test_a_frame_without_room_for_a_header_closes(client, length):
    client.send_frame(bytes(length))
    assert client.is_closed()


@pytest.mark.parametrize("length", [0, 4, 20, 43])
def test_a_short_handshake_closes(raw, length):
    connection = raw()
    connection.send_frame(connection.handshake_record()[:length])
    assert connection.is_closed()


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\xff" * 64, b"SSH-2.0-x\r\n"])
def test_other_protocols_are_closed(raw, garbage):
    connection = raw()
    connection.send_raw(garbage)
    assert connection.is_closed()


def test_the_largest_frame_is_served(client, base):
    room = wire.FRAME_MAX - len(set_data_record(base, b"")) - 8
    data = bytes(range(256)) * (room // 256) + b"x" * (room % 256)
    assert client.set_data(base, data).data_length == room
    assert client.get_data(base)[0] == data


def test_bytes_may_come_one_by_one(raw, base):
    connection = raw()
    frames = (connection.handshake_record(), i32(1) + i32(EXISTS) + path_watch(base), i32(2) + i32(SET_DATA) + set_data_record(base, b"slow"))
    for byte in b"".join(i32(len(frame)) + frame for frame in frames):
        connection.send_raw(bytes([byte]))
    assert connection.read_handshake().session != 0
    assert [(connection.receive_reply()[::2]) for _ in range(2)] == [(1, 0), (2, 0)]


def test_a_frame_may_be_cut_anywhere(connect, base):
    connection = connect()
    frame = i32(1) + i32(GET_DATA) + path_watch(base)
    frame = i32(len(frame)) + frame
    for cut in range(1, len(frame)):
        connection.send_raw(frame[:cut])
        time.sleep(0.002)
        connection.send_raw(frame[cut:])
        assert connection.receive_reply().err == 0


def test_half_a_frame_and_then_the_end_does_no_harm(connect, client, base):
    for cut in (2, 4, 9, 30):
        connection = connect()
        frame = i32(1) + i32(CREATE) + create_record(base + "/half")
        connection.send_raw((i32(len(frame)) + frame)[:cut])
        connection.close()
    assert client.exists(base + "/half") is None


def test_replies_come_in_request_order(client, base):
    ops = []
    for i in range(300):
        ops.append((CREATE, create_record(f"{base}/n{i}", b"%d" % i)))
        ops.append((GET_DATA, path_watch(f"{base}/n{i}")))
        ops.append((GET_DATA, path_watch(f"{base}/none{i}")))
        ops.append((PING, b""))
    sent = [client.send(op, record, -2 if op == PING else None) for op, record in ops]
    replies = [client.receive_reply() for _ in ops]
    assert [reply.xid for reply in replies] == sent
    assert [reply.err for reply in replies] == [0, 0, NO_NODE, 0] * 300
    assert [reply.body.buffer() for reply in replies[1::4]] == [b"%d" % i for i in range(300)]
    zxids = [reply.zxid for reply in replies]
    assert zxids == sorted(zxids)
