"""Clients that misbehave, beside one that does not: the server's memory stays bounded, the bystander hardly notices, and
what was asked for in the right way is still answered in the right way.
"""

import json
import resource
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import servers
import wire
from wire import *  # noqa: F403

# What the server may hold in memory under any of this, of which the data is a few MiB.
RESIDENT_MIB_MAX = 400
# A bystander's p99 may grow by this factor, or by this many ms: two cores are shared by everybody here.
FACTOR_MAX, ALLOWANCE_MS = 5, 20
DEAF_CLIENTS = 16
PIPELINED = 100_000
IDLE_CONNECTIONS = 10_000
# Ten seconds, and what the server's clocks round up.
HANDSHAKE_LIMIT_S = 25 if servers.ORACLE else 15


@pytest.fixture
def abused(make_server):
    """A server of its own, with a bystander's quiet figures in `quiet`."""
    server = make_server({"tickTime": 2000, "maxClientCnxns": 0, "clientPortListenBacklog": 1000}).start()
    client = wire.open_session(server.port)
    client.create("/small", b"s" * 1024)
    client.create("/large", b"l" * (512 << 10))
    client.ok(CLOSE_SESSION)
    finish(bystander(server, 0.3))
    server.quiet = finish(bystander(server, 1.5))
    return server


def bystander(server, seconds):
    program = Path(__file__).with_name("bystander.py")
    return subprocess.Popen([sys.executable, program, str(server.port), str(seconds)], stdout=subprocess.PIPE, text=True)


def finish(process):
    out, _ = process.communicate()
    assert process.returncode == 0, "the bystander was not served"
    return json.loads(out)


def hardly_noticed(server, process, what):
    """Prints and judges what the bystander has measured and what the server has become."""
    busy, quiet = finish(process), server.quiet
    ratio, resident = busy["p99"] / quiet["p99"], server.resident_mib()
    print(f"{what}: bystander p99 {quiet['p99']:.2f} -> {busy['p99']:.2f} ms (x{ratio:.1f}), max {busy['max']:.1f} ms in {busy['calls']} calls")
    print(f"{what}: resident {resident:.0f} MiB")
    if servers.ORACLE:
        return
    assert ratio <= FACTOR_MAX or busy["p99"] <= quiet["p99"] + ALLOWANCE_MS
    assert resident <= RESIDENT_MIB_MAX


def send_until_blocked(connections, requests, quiet_s, limit_s):
    """Sends each connection its request again and again, until no socket has taken anything for `quiet_s`; how many
    requests were taken from each, and whether it came to an end before `limit_s`."""
    blocks = {connection.sock: request * 64 for connection, request in zip(connections, requests)}
    sent = dict.fromkeys(blocks, 0)
    for sock in blocks:
        sock.setblocking(False)
    began = last = time.monotonic()
    while time.monotonic() - last < quiet_s and time.monotonic() - began < limit_s:
        for sock in select.select([], list(blocks), [], 0.05)[1]:
            try:
                sent[sock] += sock.send(blocks[sock][sent[sock] % (len(blocks[sock]) // 64) :])
                last = time.monotonic()
            except BlockingIOError:
                pass
    for sock in blocks:
        sock.settimeout(10)
    return [count * 64 // len(blocks[sock]) for sock, count in sent.items()], time.monotonic() - last >= quiet_s


def framed(xid, op, record):
    body = i32(xid) + i32(op) + record
    return i32(len(body)) + body


@pytest.mark.time_limit(60)
def test_clients_that_never_read(abused):
    process = bystander(abused, 6)
    time.sleep(0.3)
    deaf = [wire.Connection(abused.port, receive_bytes=65536) for _ in range(DEAF_CLIENTS)]
    for connection in deaf:
        connection.handshake(timeout_ms=40000)
    requests = [framed(1, GET_DATA, path_watch("/large" if number % 2 else "/small")) for number in range(DEAF_CLIENTS)]
    taken, blocked = send_until_blocked(deaf, requests, quiet_s=0.7, limit_s=5)
    print(f"requests taken from clients that never read: {taken}")
    hardly_noticed(abused, process, f"{DEAF_CLIENTS} clients that never read")
    assert blocked or servers.ORACLE, "a client that never reads is read for ever"
    # Late is not lost: the first of them reads after all.
    for number in range(1000):
        reply = deaf[0].receive_reply()
        assert (reply.xid, reply.err, reply.body.buffer()) == (1, OK, b"s" * 1024)
    for connection in deaf:
        connection.close()


@pytest.mark.time_limit(60)
@pytest.mark.parametrize("what", ["replies", "requests"])
def test_a_write_with_large_reads_behind_it(abused, what):
    """Reads wait for the write of their session: neither they nor their answers may pile up without bound meanwhile."""
    process = bystander(abused, 5)
    time.sleep(0.3)
    write = framed(1, SET_DATA, set_data_record("/small", b"s" * 1024))
    read = framed(2, GET_DATA, path_watch("/large" if what == "replies" else "/small"))
    if what == "requests":
        read = framed(2, GET_DATA, path_watch("/small") + bytes(wire.FRAME_MAX - 100))
    greedy = [wire.open_session(abused.port, timeout_ms=40000) for _ in range(8)]
    for connection in greedy:
        connection.sock.settimeout(0.5)
        try:
            connection.send_raw((write + read * (900 if what == "replies" else 60)) * 2)
        except TimeoutError:
            pass
    time.sleep(1)
    print(f"at its worst: resident {abused.resident_mib():.0f} MiB")
    hardly_noticed(abused, process, f"large {what} behind a write")
    for connection in greedy:
        connection.close()


def pipeline(connection, requests):
    """Sends everything, reading only once the server takes no more; yields the replies."""
    data, sent = b"".join(requests), 0
    sock = connection.sock
    sock.setblocking(False)
    stuck = time.monotonic()
    while sent < len(data) and time.monotonic() - stuck < 0.5:
        select.select([], [sock], [], 0.05)
        try:
            sent += sock.send(data[sent : sent + 262144])
            stuck = time.monotonic()
        except BlockingIOError:
            pass
    print(f"{sent} of {len(data)} bytes were taken before the first reply was read")
    received = bytearray()
    at, replies = 0, 0
    while replies < len(requests):
        readable, writable, _ = select.select([sock], [sock] if sent < len(data) else [], [], 10)
        assert readable or writable, f"nothing for 10 s after {replies} replies"
        if writable:
            try:
                sent += sock.send(data[sent : sent + 262144])
            except BlockingIOError:
                pass
        if readable:
            chunk = sock.recv(1 << 20)
            assert chunk, f"closed after {replies} replies"
            received = received[at:] + chunk
            at = 0
            while len(received) - at >= 4:
                length = int.from_bytes(received[at : at + 4])
                if len(received) - at < 4 + length:
                    break
                yield bytes(received[at + 4 : at + 4 + length])
                at += 4 + length
                replies += 1
    sock.settimeout(10)


@pytest.mark.time_limit(90)
def test_a_hundred_thousand_requests_in_one_go(abused):
    """Reads, writes and errors in turn: all answered, in order, and right."""
    connection = wire.open_session(abused.port, timeout_ms=40000)
    connection.create("/p", b"-1")
    requests = []
    for number in range(0, PIPELINED, 4):
        requests.append(framed(number, SET_DATA, set_data_record("/p", b"%d" % number)))
        requests.append(framed(number + 1, GET_DATA, path_watch("/p")))
        requests.append(framed(number + 2, EXISTS, path_watch("/none")))
        requests.append(framed(number + 3, GET_DATA, path_watch("/small")))
    process = bystander(abused, 4)
    began = time.monotonic()
    last_zxid = 0
    for number, frame in enumerate(pipeline(connection, requests)):
        reader = wire.Reader(frame)
        xid, zxid, err = reader.i32(), reader.i64(), reader.i32()
        assert (xid, err) == (number, NO_NODE if number % 4 == 2 else OK)
        assert zxid >= last_zxid
        last_zxid = zxid
        if number % 4 == 0:
            assert reader.stat().version == number // 4 + 1
        elif number % 4 == 1:
            assert reader.buffer() == b"%d" % (number - 1)
    print(f"{PIPELINED} pipelined requests in {time.monotonic() - began:.1f} s")
    hardly_noticed(abused, process, f"{PIPELINED} requests in one go")


@pytest.mark.time_limit(90)
def test_ten_thousand_idle_sessions(abused):
    count = min(IDLE_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)
    before = abused.resident_mib()
    idle = []
    hello = i32(45) + wire.Connection.handshake_record(timeout_ms=40000)
    began = time.monotonic()
    while len(idle) < count:
        some = [socket.create_connection(("127.0.0.1", abused.port), timeout=20) for _ in range(min(250, count - len(idle)))]
        for sock in some:
            sock.sendall(hello)
        for sock in some:
            answer = sock.recv(41, socket.MSG_WAITALL)
            assert len(answer) == 41 and int.from_bytes(answer[12:20]) != 0
        idle += some
    took_s = time.monotonic() - began
    per_session = (abused.resident_mib() - before) * 1024 / count
    print(f"{count} idle sessions in {took_s:.1f} s, {per_session:.1f} KiB each")
    hardly_noticed(abused, bystander(abused, 3), f"{count} idle sessions")
    # They are alive, all over the table.
    for sock in idle[:: count // 100]:
        sock.sendall(framed(-2, PING, b""))
        assert int.from_bytes(sock.recv(20, socket.MSG_WAITALL)[4:8], signed=True) == -2
    for sock in idle:
        sock.close()
    assert wire.open_session(abused.port).exists("/small")


@pytest.mark.time_limit(60)
def test_giant_counts_and_lengths(abused):
    """Requests that claim to hold two billion of something."""
    huge = i32(2**31 - 1)
    claims = [
        (CREATE, string("/a") + buffer(b"") + huge + i32(31) + string("world") + string("anyone")),
        (CREATE, string("/a") + huge + b"data"),
        (CREATE, huge),
        (SET_ACL, string("/small") + huge + b"\0" * 1000),
        (MULTI, multi_record((CREATE, string("/a") + buffer(b"") + huge))),
        (MULTI, (i32(CHECK) + boolean(False) + i32(-1) + path_version("/small")) * 30_000),
        (SET_WATCHES, i64(0) + huge + string("/a") * 100_000),
        (SET_WATCHES, i64(0) + huge * 3),
        (100, i32(0) + huge),
    ]
    process = bystander(abused, 4)
    end = time.monotonic() + 3
    rounds = 0
    while time.monotonic() < end:
        for op, record in claims:
            connection = wire.open_session(abused.port, timeout_ms=4000)
            try:
                assert connection.code(op, record) == (MARSHALLING if op != 100 else AUTH_FAILED)
            except (wire.Closed, ConnectionError):
                assert op == 100
            connection.close()
        for length in (huge, i32(wire.FRAME_MAX), i32(-5)):
            # A length and nothing behind it.
            connection = wire.Connection(abused.port)
            connection.send_raw(length)
            connection.close()
        rounds += 1
    print(f"{rounds} rounds of giant claims")
    hardly_noticed(abused, process, "giant counts and lengths")


@pytest.mark.time_limit(60)
def test_handshakes_that_never_end(abused):
    """Sockets with nothing, with half a length, with half a handshake, with a length that lets the server wait for more."""
    record = i32(45) + wire.Connection.handshake_record()
    halves = []
    for number in range(1000):
        connection = wire.Connection(abused.port)
        connection.send_raw((b"", record[:2], record[:30], i32(wire.FRAME_MAX) + b"x" * 1000)[number % 4])
        halves.append(connection)
    hardly_noticed(abused, bystander(abused, 3), "1000 handshakes that never end")
    began = time.monotonic()
    for connection in halves:
        assert connection.is_closed(within_s=max(0.1, began + HANDSHAKE_LIMIT_S - time.monotonic())), "still open"


@pytest.mark.time_limit(60)
def test_connections_that_come_and_go(abused):
    """A thousand of each kind: gone before the handshake, gone with requests under way, reset instead of closed."""
    process = bystander(abused, 5)
    record = i32(45) + wire.Connection.handshake_record(timeout_ms=4000)
    requests = b"".join(framed(number, SET_DATA, set_data_record("/small", b"s" * 1024)) for number in range(20))
    linger = bytes([1, 0, 0, 0, 0, 0, 0, 0])
    for number in range(3000):
        sock = socket.create_connection(("127.0.0.1", abused.port), timeout=10)
        if number % 3:
            sock.sendall(record + requests)
        if number % 3 == 2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        sock.close()
    hardly_noticed(abused, process, "3000 connections that come and go")
    assert wire.open_session(abused.port).get_data("/small")[0] == b"s" * 1024


@pytest.mark.time_limit(60)
def test_the_same_watch_a_hundred_thousand_times(abused):
    """Watches of one connection on one node are one watch."""
    connection = wire.open_session(abused.port, timeout_ms=40000)
    process = bystander(abused, 4)
    for frame in pipeline(connection, [framed(1, EXISTS, path_watch("/small", True))] * PIPELINED):
        assert frame[12:16] == i32(OK)
    hardly_noticed(abused, process, f"{PIPELINED} times the same watch")
    wire.open_session(abused.port).set_data("/small", b"changed")
    assert connection.take_events() == [(DATA_CHANGED, "/small")]
