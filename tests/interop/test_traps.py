"""What surprises those who write a server for ZooKeeper's clients, as far as only a real socket, a restart or a real ZooKeeper
beside it can show it. The table of all of it is docs/compatibility.md. Refuses to repeat what the other files here say.
"""

import pytest
import wire
from wire import *  # noqa: F403

READ = 1


def test_the_configuration_node_is_older_than_any_version(client):
    """Its aversion is -1, so that no setACL with an expected version of 0 ever hits it by accident."""
    stat = client.exists("/zookeeper/config")
    assert (stat.aversion, stat.czxid, stat.mzxid, stat.ctime, stat.ephemeral_owner) == (-1, 0, 0, 0, 0)
    body = client.ok(GET_ACL, string("/zookeeper/config"))
    assert body.acl() == [(READ, "world", "anyone")]
    assert client.code(SET_DATA, set_data_record("/zookeeper/config", b"x")) == NO_AUTH


@pytest.mark.parametrize("path", [b"/\xff", b"/a\xc0\x80", b"/\xf0\x9f\x98\x80", b"/\xed\xa0\xbd\xed\xb8\x80"])
def test_what_is_no_text_or_beyond_the_basic_plane_is_no_path(client, path):
    """Invalid UTF-8 reads as U+FFFD, which no path may have; a read says that there is no such node."""
    assert client.code(EXISTS, path_watch(path)) == NO_NODE
    assert client.code(GET_DATA, path_watch(path)) == NO_NODE
    assert client.code(CREATE, create_record(path)) == BAD_ARGUMENTS
    assert client.code(SET_DATA, set_data_record(path, b"")) == BAD_ARGUMENTS


def test_ordinary_requests_may_have_any_xid(client, base):
    for xid in (-1, -2, -4, -8, 0, -(2**31), 2**31 - 1):
        for op, record in ((EXISTS, path_watch(base)), (SET_DATA, set_data_record(base, b"x"))):
            client.send(op, record, xid)
            # Not receive_reply: with -1 it would look like an event.
            frame = wire.Reader(client.receive_frame())
            assert (frame.i32(), frame.i64() > 0, frame.i32()) == (xid, True, OK)


def test_auth_and_set_watches_answer_on_the_xid_that_came(client):
    assert client.call(AUTH, auth_record("ip", b""), xid=7).err == OK
    assert client.call(SET_WATCHES, set_watches_record(0), xid=8).err == OK


@pytest.mark.falconer_only("ZooKeeper closes such a connection without a word")
def test_a_request_beyond_the_limit_is_told_so_before_the_close(client):
    client.send_raw(i32(wire.FRAME_MAX + 1) + i32(7) + i32(CREATE))
    reply = client.receive_reply()
    assert (reply.xid, reply.err) == (7, BAD_ARGUMENTS)
    assert client.is_closed()


@pytest.mark.falconer_only("ZooKeeper holds setWatches to jute.maxbuffer, and C clients with many watches never come back")
def test_set_watches_may_be_longer_than_other_requests(client, base):
    paths = [f"{base}/{'n' * 200}{i}" for i in range(10000)]
    record = set_watches_record(0, (), paths)
    assert len(record) > 2 * wire.FRAME_MAX
    assert client.call(SET_WATCHES, record, xid=-8).err == OK
    client.create(paths[5000])
    assert client.take_events() == [(CREATED, paths[5000])]


def test_persistent_watches_are_set_again_without_events(client, connect, base):
    writer = connect()
    writer.create(base + "/p")
    paths = [base + "/p", base + "/none"]
    assert client.call(SET_WATCHES2, set_watches_record(0, (), (), (), paths, paths), xid=-8).err == OK
    assert client.take_events() == []
    writer.set_data(base + "/p", b"x")
    assert client.take_events() == [(DATA_CHANGED, base + "/p")]


def test_creates_inside_a_transaction_answer_with_two_types(client, base):
    kinds = [(CREATE, 0), (CREATE2, 0), (CREATE_CONTAINER, wire.CONTAINER)]
    results = client.multi(*[(op, create_record(f"{base}/{op}", flags=flags)) for op, flags in kinds])
    assert [result[0] for result in results] == [CREATE, CREATE2, CREATE2]


def test_nothing_that_is_empty_is_null(client, base):
    for op, record in ((GET_DATA, path_watch(base)), (GET_CHILDREN, path_watch(base)), (GET_CHILDREN2, path_watch(base))):
        assert client.ok(op, record).i32() == 0
    assert client.ok(GET_EPHEMERALS, string("/")).i32() == 0


def test_null_data_and_a_write_behind_it_share_a_zxid(client, base):
    path = base + "/broker"
    reply = client.call(MULTI, multi_record((CREATE, create_record(path, None, flags=1)), (SET_DATA, set_data_record(path, None))))
    stat = wire.multi_results(reply.body)[1][2]
    assert (stat.czxid, stat.mzxid, stat.version) == (reply.zxid, reply.zxid, 1)
    assert client.get_data(path)[0] is None


def test_watches_are_removed_by_their_kind(client, base):
    children, data, any_kind, persistent, recursive = 1, 2, 3, 4, 5
    client.ok(ADD_WATCH, path_version(base, 0))
    client.get_data(base, watch=True)
    code = lambda op, kind: client.code(op, path_version(base, kind))  # noqa: E731
    assert code(REMOVE_WATCHES, recursive) == NO_WATCHER
    assert code(REMOVE_WATCHES, persistent) == OK
    assert code(CHECK_WATCHES, children) == NO_WATCHER
    assert code(CHECK_WATCHES, data) == OK
    assert code(REMOVE_WATCHES, data) == OK
    assert code(REMOVE_WATCHES, any_kind) == NO_WATCHER
    for op in (CHECK_WATCHES, REMOVE_WATCHES):
        for kind in (0, 6, -1):
            assert code(op, kind) == MARSHALLING
    assert client.take_events() == []


def test_a_session_id_is_never_given_twice(make_server):
    """Not by a server that was killed and has lost its sense of time either."""
    server = make_server()
    seen = []
    for _ in range(3):
        server.start()
        opened = [wire.open_session(server.port) for _ in range(20)]
        seen += [connection.hello.session for connection in opened]
        for connection in opened[:10]:
            connection.ok(CLOSE_SESSION)
        server.kill()
    assert len(set(seen)) == len(seen)
    assert all(session > 0 for session in seen)
