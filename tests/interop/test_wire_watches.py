"""Watches on the wire: which event comes, once, to whom, and before which reply; and the catch-up after a reconnect."""

import pytest
import wire
from wire import *  # noqa: F403

SYNC_CONNECTED = 3


def test_an_event_says_what_where_and_when(client, connect, base):
    client.get_data(base, watch=True)
    reply = connect().call(SET_DATA, set_data_record(base, b"x"))
    assert client.next_event() == wire.Event(DATA_CHANGED, SYNC_CONNECTED, base, reply.zxid)


def test_a_watch_fires_once(client, connect, base):
    client.get_data(base, watch=True)
    client.exists(base, watch=True)
    writer = connect()
    for data in (b"1", b"2", b"3"):
        writer.set_data(base, data)
    assert client.take_events() == [(DATA_CHANGED, base)]


def test_the_event_comes_before_the_reply_to_the_change_of_the_same_session(client, base):
    client.get_data(base, watch=True)
    client.send(SET_DATA, set_data_record(base, b"x"))
    assert isinstance(client.receive_any(), wire.Event)
    assert isinstance(client.receive_any(), wire.Reply)


def test_the_event_comes_before_any_reply_that_shows_the_change(connect, base):
    writers, watchers = [connect() for _ in range(2)], [connect() for _ in range(4)]
    for i in range(50):
        for watcher in watchers:
            watcher.get_data(base, watch=True)
        writers[i % 2].set_data(base, b"%d" % i)
        for watcher in watchers:
            watcher.send(GET_DATA, path_watch(base))
            event, reply = watcher.receive_any(), watcher.receive_any()
            assert (event.kind, event.path) == (DATA_CHANGED, base)
            assert reply.body.buffer() == b"%d" % i


def test_reads_racing_with_writes_never_show_a_change_before_its_event(connect, base):
    writer, watcher = connect(), connect()
    for i in range(1, 200):
        watcher.get_data(base, watch=True)
        writer.send(SET_DATA, set_data_record(base, b"%d" % i))
        for _ in range(3):
            watcher.send(GET_DATA, path_watch(base))
        seen_event = False
        for _ in range(3):
            while isinstance(frame := watcher.receive_any(), wire.Event):
                seen_event = True
            assert frame.body.buffer() != b"%d" % i or seen_event
        writer.receive_reply()
        if not seen_event:
            assert watcher.receive_any().kind == DATA_CHANGED


@pytest.mark.parametrize("op", [GET_CHILDREN, GET_CHILDREN2])
def test_child_watches(client, connect, base, op):
    other = connect()
    for change, expected in (
        (lambda: other.create(base + "/a"), [(CHILDREN_CHANGED, base)]),
        (lambda: other.set_data(base + "/a", b"x"), []),
        (lambda: other.create(base + "/a/deep"), []),
        (lambda: other.set_data(base, b"x"), []),
        (lambda: other.delete(base + "/a/deep"), []),
        (lambda: other.delete(base + "/a"), [(CHILDREN_CHANGED, base)]),
        (lambda: other.delete(base), [(DELETED, base)]),
    ):
        client.ok(op, path_watch(base, True))
        change()
        assert client.take_events() == expected


def test_exists_watches_what_is_not_there(client, connect, base):
    assert client.exists(base + "/a", watch=True) is None
    other = connect()
    other.create(base + "/a")
    assert client.take_events() == [(CREATED, base + "/a")]
    client.exists(base + "/a", watch=True)
    other.create(base + "/a/b")
    other.delete(base + "/a/b")
    assert client.take_events() == []
    other.delete(base + "/a")
    assert client.take_events() == [(DELETED, base + "/a")]


@pytest.mark.parametrize("op", [GET_DATA, GET_CHILDREN, GET_CHILDREN2])
def test_other_reads_do_not(client, connect, base, op):
    assert client.code(op, path_watch(base + "/a", True)) == NO_NODE
    connect().create(base + "/a")
    assert client.take_events() == []


def test_a_deleted_node_is_reported_once_although_both_kinds_watch_it(client, connect, base):
    client.create(base + "/a")
    client.get_data(base + "/a", watch=True)
    client.children(base + "/a", watch=True)
    client.children(base, watch=True)
    connect().delete(base + "/a")
    assert client.take_events() == [(DELETED, base + "/a"), (CHILDREN_CHANGED, base)]
    # The child watch is gone with it.
    client.create(base + "/a")
    client.create(base + "/a/b")
    assert client.take_events() == []


def test_the_order_of_the_events_of_one_change(client, connect, base):
    client.exists(base + "/a", watch=True)
    client.children(base, watch=True)
    connect().create(base + "/a")
    assert client.take_events() == [(CREATED, base + "/a"), (CHILDREN_CHANGED, base)]


def test_a_transaction_fires_in_the_order_of_its_ops(client, connect, base):
    for name in "abc":
        client.exists(f"{base}/{name}", watch=True)
    client.children(base, watch=True)
    reply = connect().call(MULTI, multi_record(*((CREATE, create_record(f"{base}/{name}")) for name in "cab")))
    client.call(PING, xid=-2)
    expected = [(CREATED, "c"), (CHILDREN_CHANGED, ""), (CREATED, "a"), (CREATED, "b")]
    assert [(event.kind, event.path, event.zxid) for event in client.events] == [
        (kind, f"{base}/{name}".rstrip("/"), reply.zxid) for kind, name in expected
    ]


def test_failed_writes_fire_nothing(client, connect, base):
    client.get_data(base, watch=True)
    client.children(base, watch=True)
    other = connect()
    other.code(SET_DATA, set_data_record(base, b"x", 9))
    other.multi((CREATE, create_record(base + "/a")), (CHECK, path_version(base, 9)))
    assert client.take_events() == []


def test_events_that_may_not_be_seen_are_dropped_and_the_watch_is_gone(client, connect, base):
    owner = connect()
    owner.auth("digest", b"bob:secret")
    owner.create(base + "/a")
    client.get_data(base + "/a", watch=True)
    owner.ok(SET_ACL, set_acl_record(base + "/a", [(31, "auth", "")]))
    owner.set_data(base + "/a", b"secret")
    assert client.take_events() == []
    owner.ok(SET_ACL, set_acl_record(base + "/a", OPEN))
    owner.set_data(base + "/a", b"open")
    assert client.take_events() == []


def test_a_refused_read_sets_no_watch(client, connect, base):
    owner = connect()
    owner.auth("digest", b"bob:secret")
    owner.create(base + "/a", acl=[(31, "auth", "")])
    assert client.code(EXISTS, path_watch(base + "/a", True)) == NO_AUTH
    owner.ok(SET_ACL, set_acl_record(base + "/a", OPEN))
    owner.set_data(base + "/a", b"x")
    assert client.take_events() == []


def test_the_root_can_be_watched(client, connect, base):
    client.children("/", watch=True)
    name = "/root-watch-" + base[1:]
    connect().create(name)
    assert client.take_events() == [(CHILDREN_CHANGED, "/")]
    client.delete(name)


def test_a_crowd_of_watchers(connect, base):
    watchers = [connect() for _ in range(100)]
    for watcher in watchers:
        watcher.get_data(base, watch=True)
    connect().set_data(base, b"x")
    for watcher in watchers:
        assert watcher.next_event().kind == DATA_CHANGED


# The catch-up after a reconnect


def nodes_for_catch_up(writer, base):
    """Nodes that change after the zxid which this returns."""
    for name in ("data", "data-same", "data-gone", "child", "child-same", "child-gone", "exist-gone"):
        writer.create(f"{base}/{name}")
    seen = writer.call(PING, xid=-2).zxid
    writer.set_data(base + "/data", b"new")
    writer.create(base + "/child/new")
    for name in ("data-gone", "child-gone", "exist-gone"):
        writer.delete(f"{base}/{name}")
    writer.create(base + "/exist-new")
    return seen


def set_watches(client, op, base, seen):
    lists = (
        ["data", "data-same", "data-gone"],
        ["exist-new", "exist-gone", "exist-none"],
        ["child", "child-same", "child-gone"],
    ) + (() if op == SET_WATCHES else ([], []))
    record = set_watches_record(seen, *([f"{base}/{name}" for name in names] for names in lists))
    return client.call(op, record, xid=-8)


CATCH_UP = [
    (DATA_CHANGED, "data"),
    (DELETED, "data-gone"),
    (CREATED, "exist-new"),
    (CHILDREN_CHANGED, "child"),
    (DELETED, "child-gone"),
]


@pytest.mark.parametrize("op", [SET_WATCHES, SET_WATCHES2])
def test_set_watches_reports_what_was_missed_before_its_reply(client, connect, base, op):
    seen = nodes_for_catch_up(connect(), base)
    reply = set_watches(client, op, base, seen)
    assert (reply.xid, reply.err) == (-8, 0)
    reply.body.end()
    assert [(event.kind, event.path) for event in client.events] == [(kind, f"{base}/{name}") for kind, name in CATCH_UP]
    assert {(event.zxid, event.state) for event in client.events} == {(-1, SYNC_CONNECTED)}


@pytest.mark.parametrize("op", [SET_WATCHES, SET_WATCHES2])
def test_set_watches_watches_the_rest(client, connect, base, op):
    writer = connect()
    set_watches(client, op, base, nodes_for_catch_up(writer, base))
    client.take_events()
    writer.set_data(base + "/data", b"newer")
    writer.set_data(base + "/exist-new", b"newer")
    writer.create(base + "/child/newer")
    writer.create(base + "/data-gone")
    assert client.take_events() == []
    writer.set_data(base + "/data-same", b"x")
    writer.create(base + "/child-same/x")
    writer.create(base + "/exist-gone")
    writer.create(base + "/exist-none")
    assert client.take_events() == [
        (DATA_CHANGED, base + "/data-same"),
        (CHILDREN_CHANGED, base + "/child-same"),
        (CREATED, base + "/exist-gone"),
        (CREATED, base + "/exist-none"),
    ]
