"""Data, stats, versions, sequence numbers, transactions and access control, as bytes on the wire."""

import base64
import hashlib
import time

import pytest
import wire
from wire import *  # noqa: F403

READ, WRITE, ADMIN = 1, 2, 16


def digest_id(name, password):
    return f"{name}:" + base64.b64encode(hashlib.sha1(f"{name}:{password}".encode()).digest()).decode()


# Nodes and stats


def test_the_stat_of_a_new_node(client, base):
    path = base + "/a"
    reply = client.call(CREATE2, create_record(path, b"12345"))
    made, stat = reply.body.string(), reply.body.stat()
    reply.body.end()
    assert made == path
    assert stat == wire.Stat(reply.zxid, reply.zxid, stat.ctime, stat.ctime, 0, 0, 0, 0, 5, 0, reply.zxid)
    assert abs(stat.ctime / 1000 - time.time()) < 5
    assert client.exists(path) == stat
    assert client.get_data(path) == (b"12345", stat)
    assert client.children(path) == ([], stat)


def test_set_data_changes_mzxid_mtime_version_and_length(client, base):
    before = client.exists(base)
    reply = client.call(SET_DATA, set_data_record(base, b"abc", 0))
    after = reply.body.stat()
    assert after == before._replace(mzxid=reply.zxid, mtime=after.mtime, version=1, data_length=3)
    assert client.get_data(base) == (b"abc", after)
    assert client.code(SET_DATA, set_data_record(base, b"x", 0)) == BAD_VERSION
    assert client.set_data(base, b"", 1).version == 2


def test_null_and_empty_data_differ(client, base):
    client.create(base + "/null", None)
    client.create(base + "/empty", b"")
    assert client.get_data(base + "/null")[0] is None
    assert client.get_data(base + "/null")[1].data_length == 0
    assert client.get_data(base + "/empty")[0] == b""
    client.set_data(base + "/empty", None)
    client.set_data(base + "/null", b"")
    assert client.get_data(base + "/null")[0] == b""
    assert client.get_data(base + "/empty")[0] is None


def test_cversion_counts_creates_and_deletes(client, base):
    for i in range(3):
        client.create(f"{base}/{i}")
    assert client.exists(base)[5:6] == (3,)
    reply = client.call(DELETE, path_version(base + "/1"))
    stat = client.exists(base)
    assert (stat.cversion, stat.num_children, stat.pzxid) == (4, 2, reply.zxid)
    client.set_data(base + "/0", b"x")
    assert client.exists(base) == stat
    client.create(base + "/1")
    assert client.exists(base).cversion == 5
    assert client.exists(base).version == 0


def test_children_are_names_with_the_stat_of_the_parent(client, base):
    made = []
    for i in range(200):
        client.create(f"{base}/n{i}")
        made.append(f"n{i}")
    assert client.children(base) == (sorted(made), client.exists(base))
    body = client.ok(GET_CHILDREN, path_watch(base))
    assert sorted(body.strings()) == sorted(made)
    body.end()


def test_the_root_and_the_system_nodes(client):
    root = client.exists("/")
    assert (root.czxid, root.ctime, root.mtime, root.version, root.ephemeral_owner) == (0, 0, 0, 0, 0)
    assert "zookeeper" in client.children("/")[0]
    assert client.children("/zookeeper")[0] == ["config", "quota"]
    assert client.children("/zookeeper/quota")[0] == []
    client.set_data("/", b"root data")
    assert client.get_data("/")[0] == b"root data"
    client.set_data("/", b"")


def test_ephemerals_have_an_owner_and_no_children(client, connect, base):
    path = client.create(base + "/e", flags=wire.EPHEMERAL)
    assert client.exists(path).ephemeral_owner == client.hello.session
    assert client.code(CREATE, create_record(path + "/child")) == NO_CHILDREN_FOR_EPHEMERALS
    other = connect()
    assert other.exists(path).ephemeral_owner == client.hello.session
    other.delete(path)
    assert client.exists(path) is None
    client.create(path, flags=wire.EPHEMERAL)


def test_unicode_paths_and_binary_data(client, base):
    path = base + "/grüße-日本-\N{GREEK SMALL LETTER OMEGA}"
    data = bytes(range(256))
    assert client.create(path, data) == path
    assert client.get_data(path)[0] == data
    assert path.rsplit("/", 1)[1] in client.children(base)[0]


# Sequence numbers


def test_the_suffix_is_ten_digits_of_the_parents_creations(client, base):
    assert client.create(base + "/s-", flags=SEQUENTIAL) == base + "/s-0000000000"
    client.create(base + "/plain")
    assert client.create(base + "/t", flags=SEQUENTIAL) == base + "/t0000000002"
    client.delete(base + "/plain")
    client.delete(base + "/t0000000002")
    assert client.create(base + "/s-", flags=SEQUENTIAL | wire.EPHEMERAL) == base + "/s-0000000003"
    assert client.code(CREATE, create_record(base + "/s-0000000003")) == NODE_EXISTS
    assert client.create(base + "/s-", flags=SEQUENTIAL) == base + "/s-0000000004"


def test_a_sequential_path_may_end_in_a_slash(client, base):
    assert client.create(base + "/", flags=SEQUENTIAL) == base + "/0000000000"


def test_sequence_numbers_within_a_transaction(client, base):
    op = (CREATE, create_record(base + "/s", flags=SEQUENTIAL))
    assert [value for _, _, value in client.multi(op, op, op)] == [f"{base}/s{i:010}" for i in range(3)]


def test_concurrent_sequential_creates_are_unique(connect, base):
    connections = [connect() for _ in range(8)]
    for _ in range(25):
        for connection in connections:
            connection.send(CREATE, create_record(base + "/s", flags=SEQUENTIAL))
    made = [connection.receive_reply().body.string() for connection in connections for _ in range(25)]
    assert sorted(made) == [f"{base}/s{i:010}" for i in range(200)]


# Other create modes


def test_containers_show_no_owner(client, base):
    body = client.ok(CREATE_CONTAINER, create_record(base + "/c", flags=CONTAINER))
    assert (body.string(), body.stat().ephemeral_owner) == (base + "/c", 0)
    body.end()
    client.create(base + "/c/child")
    assert client.exists(base + "/c").num_children == 1


def test_ttl_nodes_are_refused_unless_they_are_switched_on(client, base):
    assert client.code(CREATE_TTL, ttl_record(base + "/t", 1000)) == UNIMPLEMENTED
    assert client.exists(base + "/t") is None


@pytest.mark.falconer_only("ZooKeeper reads this key as a system property only")
def test_ttl_nodes_when_they_are_switched_on(make_server):
    server = make_server({"tickTime": 500, "extendedTypesEnabled": "true"}).start()
    client = wire.open_session(server.port)
    body = client.ok(CREATE_TTL, ttl_record("/t", 600000))
    assert (body.string(), body.stat().ephemeral_owner) == ("/t", 0)
    body.end()
    body = client.ok(CREATE_TTL, ttl_record("/s", 600000, flags=6))
    assert body.string() == "/s0000000001"
    for ttl_ms in (0, -1, 1 << 40):
        assert client.code(CREATE_TTL, ttl_record("/bad", ttl_ms)) == BAD_ARGUMENTS
    assert client.code(CREATE_TTL, ttl_record("/bad", 1000, flags=0)) == BAD_ARGUMENTS


# Transactions


def test_a_transaction_has_one_zxid_and_a_result_per_op(client, base):
    ops = (
        (CREATE, create_record(base + "/a", b"1")),
        (CREATE2, create_record(base + "/a/b", b"22")),
        (SET_DATA, set_data_record(base + "/a", b"333", 0)),
        (CHECK, path_version(base + "/a", 1)),
        (DELETE, path_version(base + "/a/b", 0)),
        (CREATE_CONTAINER, create_record(base + "/c", flags=CONTAINER)),
    )
    reply = client.call(MULTI, multi_record(*ops))
    results = multi_results(reply.body)
    assert [(kind, err) for kind, err, _ in results] == [(CREATE, 0), (CREATE2, 0), (SET_DATA, 0), (CHECK, 0), (DELETE, 0), (CREATE2, 0)]
    assert results[0][2] == base + "/a"
    assert results[1][2][0] == base + "/a/b"
    assert results[1][2][1][:2] == (reply.zxid, reply.zxid)
    assert (results[2][2].version, results[2][2].mzxid, results[2][2].data_length) == (1, reply.zxid, 3)
    stat = client.exists(base + "/a")
    assert (stat.czxid, stat.mzxid, stat.pzxid, stat.num_children, stat.cversion) == (reply.zxid, reply.zxid, reply.zxid, 0, 2)


def test_a_failed_transaction_says_which_op_and_changes_nothing(client, base):
    before = client.exists(base)
    ops = (
        (CREATE, create_record(base + "/a")),
        (SET_DATA, set_data_record(base, b"x")),
        (DELETE, path_version(base + "/none")),
        (CREATE, create_record(base + "/b")),
        (CHECK, path_version(base + "/none")),
    )
    reply = client.call(MULTI, multi_record(*ops))
    assert reply.err == 0
    codes = [OK, OK, NO_NODE, RUNTIME_INCONSISTENCY, RUNTIME_INCONSISTENCY]
    assert multi_results(reply.body) == [(-1, code, code) for code in codes]
    assert client.exists(base) == before
    assert client.children(base)[0] == []


def test_a_failed_check_stops_a_transaction(client, base):
    results = client.multi((CHECK, path_version(base, 5)), (SET_DATA, set_data_record(base, b"x")))
    assert results == [(-1, BAD_VERSION, BAD_VERSION), (-1, RUNTIME_INCONSISTENCY, RUNTIME_INCONSISTENCY)]
    assert client.get_data(base)[0] == b""


def test_an_empty_transaction_succeeds_and_takes_a_zxid(client):
    before = client.call(PING, xid=-2).zxid
    assert client.multi() == []
    assert client.call(PING, xid=-2).zxid > before


def test_transactions_that_do_not_parse_are_refused_and_the_connection_stays(client, base):
    create = (CREATE, create_record(base + "/a"))
    bad_flag = (CREATE, create_record(base + "/a", flags=99))
    for record in (
        multi_record(create, (GET_DATA, path_watch("/"))),
        multi_record(create, (77, b"")),
        multi_record(create, bad_flag),
        multi_record(create)[: -len(multi_end())],
        multi_record(create)[:20],
        b"",
    ):
        assert client.code(MULTI, record) == MARSHALLING
    assert client.exists(base + "/a") is None


def test_ops_see_earlier_ops_and_ephemerals_belong_to_the_session(client, base):
    client.multi(
        (CREATE, create_record(base + "/lock", None, flags=wire.EPHEMERAL)),
        (SET_DATA, set_data_record(base + "/lock", b"me", 0)),
    )
    data, stat = client.get_data(base + "/lock")
    assert (data, stat.version, stat.ephemeral_owner) == (b"me", 1, client.hello.session)
    assert stat.czxid == stat.mzxid


def test_two_sessions_never_see_half_a_transaction(connect, base):
    writer, reader = connect(), connect()
    writer.create(base + "/x", b"0")
    writer.create(base + "/y", b"0")
    for i in range(1, 100):
        writer.send(MULTI, multi_record(*((SET_DATA, set_data_record(f"{base}/{n}", b"%d" % i)) for n in "xy")))
        reader.send(GET_DATA, path_watch(base + "/x"))
        reader.send(GET_DATA, path_watch(base + "/y"))
        x, y = (int(reader.receive_reply().body.buffer()) for _ in range(2))
        assert x <= y
        writer.receive_reply()


# Errors and zxids


def test_refused_writes_take_a_zxid_and_reads_do_not(client, base):
    first = client.call(DELETE, path_version(base + "/none"))
    second = client.call(SET_DATA, set_data_record(base, b"x", 9))
    assert (first.err, second.err) == (NO_NODE, BAD_VERSION)
    assert second.zxid > first.zxid
    assert client.call(EXISTS, path_watch(base)).zxid == client.call(GET_DATA, path_watch(base + "/none")).zxid


# Access control


def test_the_acl_of_a_node_with_its_stat(client, base):
    body = client.ok(GET_ACL, string(base))
    assert (body.acl(), body.stat()) == (OPEN, client.exists(base))
    body.end()
    body = client.ok(GET_ACL, string("/zookeeper/config"))
    assert body.acl() == [(READ, "world", "anyone")]


def test_set_acl_changes_only_aversion(client, base):
    before = client.exists(base)
    client.exists(base, watch=True)
    acl = [(READ | ADMIN, "world", "anyone"), (31, "ip", "127.0.0.1")]
    body = client.ok(SET_ACL, set_acl_record(base, acl, 0))
    assert body.stat() == before._replace(aversion=1)
    body.end()
    assert client.exists(base) == before._replace(aversion=1)
    assert client.ok(GET_ACL, string(base)).acl() == acl
    assert client.code(SET_ACL, set_acl_record(base, acl, 0)) == BAD_VERSION
    assert client.take_events() == []


def test_duplicates_in_an_acl_go(client, base):
    acl = [(31, "world", "anyone"), (1, "ip", "10.0.0.1"), (31, "world", "anyone")]
    client.create(base + "/a", acl=acl)
    assert client.ok(GET_ACL, string(base + "/a")).acl() == acl[:2]


def test_digest_and_auth_identities(client, connect, base):
    client.auth("digest", b"bob:secret")
    path = client.create(base + "/mine", b"s", acl=[(31, "auth", "ignored")])
    expected = [(31, "digest", digest_id("bob", "secret"))]
    assert client.ok(GET_ACL, string(path)).acl() == expected
    other = connect()
    for op, record in (
        (GET_DATA, path_watch(path)),
        (EXISTS, path_watch(path)),
        (GET_CHILDREN, path_watch(path)),
        (GET_CHILDREN2, path_watch(path)),
        (GET_ACL, string(path)),
        (SET_DATA, set_data_record(path, b"x")),
        (CREATE, create_record(path + "/child")),
        (SET_ACL, set_acl_record(path, OPEN)),
    ):
        assert other.code(op, record) == NO_AUTH
    assert other.multi((CHECK, path_version(path, 0)))[0][1] == NO_AUTH
    # Deleting asks the parent, which is open.
    other.auth("digest", b"bob:wrong")
    assert other.code(GET_DATA, path_watch(path)) == NO_AUTH
    other.auth("digest", b"bob:secret")
    assert other.get_data(path)[0] == b"s"
    connect().delete(path)


def test_the_id_of_the_scheme_auth_may_be_null(client, base):
    """kazoo sends an empty string as null."""
    client.auth("digest", b"bob:secret")
    client.create(base + "/a", acl=[(31, "auth", None)])
    assert client.ok(GET_ACL, string(base + "/a")).acl() == [(31, "digest", digest_id("bob", "secret"))]
    client.ok(SET_ACL, set_acl_record(base + "/a", [(1, "auth", None), (31, "world", "anyone")]))
    assert client.code(CREATE, create_record(base + "/b", acl=[(31, None, "x")])) == INVALID_ACL
    assert client.code(CREATE, create_record(base + "/b", acl=[(31, "world", None)])) in (INVALID_ACL, MARSHALLING)
    assert client.code(SET_ACL, set_acl_record(base, [(31, None, None)])) == INVALID_ACL


def test_deleting_asks_the_acl_of_the_parent(client, connect, base):
    client.auth("digest", b"bob:secret")
    client.create(base + "/p", acl=[(31, "auth", ""), (READ, "world", "anyone")])
    client.create(base + "/p/child")
    other = connect()
    assert other.code(DELETE, path_version(base + "/p/child")) == NO_AUTH
    assert other.code(DELETE, path_version(base + "/p/none")) == NO_AUTH
    client.delete(base + "/p/child")


def test_hashes_are_hidden_from_those_who_are_not_admins(client, connect, base):
    client.auth("digest", b"bob:secret")
    acl = [(31, "digest", digest_id("bob", "secret")), (READ, "world", "anyone")]
    client.create(base + "/a", acl=acl)
    assert client.ok(GET_ACL, string(base + "/a")).acl() == acl
    assert connect().ok(GET_ACL, string(base + "/a")).acl() == [(31, "digest", "bob:x"), acl[1]]


def test_identities_add_up(client, base):
    client.auth("digest", b"one:1")
    client.auth("digest", b"two:2")
    client.create(base + "/a", acl=[(READ, "digest", digest_id("one", "1")), (WRITE, "digest", digest_id("two", "2"))])
    client.get_data(base + "/a")
    client.set_data(base + "/a", b"x")
    assert client.code(SET_ACL, set_acl_record(base + "/a", OPEN)) == NO_AUTH
    client.create(base + "/b", acl=[(31, "auth", "")])
    assert {id for _, _, id in client.ok(GET_ACL, string(base + "/b")).acl()} == {digest_id("one", "1"), digest_id("two", "2")}


def test_addresses_are_identities(client, base):
    client.create(base + "/in", b"x", acl=[(31, "ip", "127.0.0.0/8")])
    client.create(base + "/exact", b"x", acl=[(31, "ip", "127.0.0.1")])
    client.create(base + "/out", b"x", acl=[(31, "ip", "10.0.0.0/8")])
    assert client.get_data(base + "/in")[0] == b"x"
    assert client.get_data(base + "/exact")[0] == b"x"
    assert client.code(GET_DATA, path_watch(base + "/out")) == NO_AUTH
    assert client.auth("ip", b"").err == 0
