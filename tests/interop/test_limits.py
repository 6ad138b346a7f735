"""Limits on what clients can make the server hold: each is met over real sockets, seen in `mntr` and told in the log, and
nobody else notices. Refuses to measure: test_abuse.py does.
"""

import pytest
import servers
import wire
from wire import *  # noqa: F403

pytestmark = pytest.mark.falconer_only("the limits are Falconer's own")

SETTINGS = """
[client]
connections_per_address_max = 12
limit_loopback = true
[limits]
sessions_max = 8
handshake_timeout_ms = 400
unparsed_bytes_max = 400_000
watches_per_connection_max = 10
identities_bytes_max = 256
acl_entries_max = 3
event_bytes_max = 100_000
[admin]
four_letter_words = "*"
"""


@pytest.fixture
def server(make_server):
    server = make_server()
    server.config = server.home / "falconer.toml"
    server.config.write_text(SETTINGS)
    server.flags = ["--client-port", str(server.port), "--data-dir", str(server.data_dir)]
    return server.start()


@pytest.fixture
def bystander(server):
    """Somebody who has done nothing, and finds everything as it should be afterwards."""
    client = wire.open_session(server.port)
    client.create("/by", b"stander")
    yield client
    assert client.get_data("/by")[0] == b"stander"


def figure(server, name):
    lines = dict(line.split("\t") for line in servers.four_letters(server.port, b"mntr").splitlines())
    return int(lines[name])


def test_connections_from_one_address(server, bystander):
    held = [wire.Connection(server.port) for _ in range(11)]
    assert wire.Connection(server.port).is_closed()
    held.pop().close()
    wire.eventually(lambda: "zk_connection_rejected" in servers.four_letters(server.port, b"mntr"))
    assert figure(server, "zk_connection_rejected") >= 1
    assert "refused, too many connections from this address (maxClientCnxns 12)" in server.log()


def test_sessions(server, bystander):
    held = [wire.open_session(server.port) for _ in range(7)]
    late = wire.Connection(server.port)
    late.send_frame(late.handshake_record())
    assert late.is_closed()
    assert figure(server, "zk_falconer_sessions_refused") == 1
    assert "a new session refused: there are 8 already" in server.log()
    # One that is there already may come back.
    hello = held[0].hello
    held[0].close()
    back = wire.open_session(server.port, session=hello.session, password=hello.password)
    back.ok(CLOSE_SESSION)
    wire.open_session(server.port)


def test_handshakes_in_time(server, bystander):
    assert wire.Connection(server.port).is_closed(within_s=3)
    assert figure(server, "zk_sessionless_connections_expired") == 1
    assert "has not shaken hands in time, closed" in server.log()


def test_unfinished_requests_of_all_connections(server, bystander):
    """Two threads have half the budget each: one connection in its limits, and of three more at least one has to go."""
    clients = [wire.open_session(server.port) for _ in range(4)]
    for client in clients:
        client.send_raw(i32(1 << 20) + i32(-8) + i32(SET_WATCHES))
    for _ in range(15):
        for client in clients:
            try:
                client.send_raw(bytes(10_000))
            except ConnectionError:
                pass
    wire.eventually(lambda: figure(server, "zk_falconer_partial_requests_closed") >= 2)
    assert figure(server, "zk_falconer_unparsed_bytes") <= 400_000
    assert "bytes of an unfinished request, closed" in server.log()
    for client in clients:
        client.close()
    wire.eventually(lambda: figure(server, "zk_falconer_unparsed_bytes") == 0)


def test_watches(server, bystander):
    client = wire.open_session(server.port)
    for i in range(10):
        assert client.exists(f"/w{i}", watch=True) is None
    assert client.code(EXISTS, path_watch("/one-more", True)) == SYSTEM_ERROR
    assert figure(server, "zk_falconer_watches_refused") == 1
    assert "a watch refused: there are 10 already" in server.log()
    client.create("/w3")
    assert client.take_events() == [(CREATED, "/w3")]


def test_identities(server, bystander):
    client = wire.open_session(server.port)
    assert client.auth("digest", b"u" * 100 + b":p").err == OK
    assert client.auth("digest", b"v" * 100 + b":p").err == AUTH_FAILED
    assert client.is_closed()
    assert figure(server, "zk_auth_failed_count") == 1
    assert "bytes of identities, at most 256" in server.log()


def test_entries_of_a_list(server, bystander):
    client = wire.open_session(server.port)
    acl = [(perms, "world", "anyone") for perms in range(1, 5)]
    assert client.code(CREATE, create_record("/a", acl=acl)) == INVALID_ACL
    assert client.code(CREATE, create_record("/a", acl=acl[:3])) == OK
    assert figure(server, "zk_falconer_writes_refused_invalid_acl") == 1
    assert "an access control list is beyond acl_entries_max" in server.log()


def test_requests_that_are_too_long(server, bystander):
    client = wire.open_session(server.port)
    client.send_raw(i32(wire.FRAME_MAX + 1) + i32(7) + i32(CREATE))
    assert client.receive_reply().err == BAD_ARGUMENTS
    assert client.is_closed()
    assert figure(server, "zk_large_requests_rejected") == 1
    assert "is beyond jute.maxbuffer (1048575), closed" in server.log()


def test_watch_events_that_are_not_read(server, bystander):
    deaf = wire.Connection(server.port, receive_bytes=4096)
    deaf.handshake()
    deaf.ok(ADD_WATCH, path_version("/", 1))
    name = "/" + "n" * 50_000
    for _ in range(300):
        bystander.create(name)
        bystander.delete(name)
        if figure(server, "zk_falconer_watchers_closed"):
            break
    assert figure(server, "zk_falconer_watchers_closed") == 1
    assert "bytes of watch events (at most 100000), closed" in server.log()


def test_a_crowd_gets_one_line(server, bystander):
    hello = wire.open_session(server.port).hello
    for _ in range(40):
        connection = wire.open_session(server.port, session=hello.session, password=hello.password)
        connection.auth("digest", b"v" * 300 + b":p")
        connection.close()
    assert figure(server, "zk_auth_failed_count") == 40
    assert server.log().count("bytes of identities") < 10
