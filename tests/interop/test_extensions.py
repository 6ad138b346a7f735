"""What Falconer does beyond ZooKeeper, byte by byte as a client of ClickHouse Keeper would send and read it, and pages of
children. That stock clients see nothing of it is part of what is tested.
"""

import re
import struct
import textwrap
import threading

import pytest
import wire
from servers import ROOT
from sessions import end, kazoo_client
from wire import *  # noqa: F403

pytestmark = pytest.mark.falconer_only("ZooKeeper has none of this")

FILTERED_LIST, CHECK_NOT_EXISTS, CREATE_IF_NOT_EXISTS, REMOVE_RECURSIVE = 500, 501, 502, 503
CHECK_STAT, TRY_REMOVE, LIST_WITH_STATS_AND_DATA, CHILDREN_PAGE = 504, 505, 506, 2000
ALL, PERSISTENT_ONLY, EPHEMERAL_ONLY = 0, 1, 2
ANY = wire.Stat(*[-1] * 11)

# The order of the bits, from the top one of the first byte on. Later features are later bits.
FEATURES = [
    "FILTERED_LIST",
    "MULTI_READ",
    "CHECK_NOT_EXISTS",
    "CREATE_IF_NOT_EXISTS",
    "REMOVE_RECURSIVE",
    "MULTI_WATCHES",
    "CHECK_STAT",
    "PERSISTENT_WATCHES",
    "CREATE_WITH_STATS",
    "TRY_REMOVE",
    "LIST_WITH_STAT_AND_DATA",
]


def features(data):
    """The names of the features whose bits are set."""
    return {name for at, name in enumerate(FEATURES) if data[at // 8] & (1 << (7 - at % 8))}


def byte(value):
    return bytes([value])


def list_record(path, kind=ALL, watch=False):
    return string(path) + boolean(watch) + byte(kind)


def listing_record(path, kind=ALL, stats=True, data=True, watch=False):
    return list_record(path, kind, watch) + boolean(stats) + boolean(data)


def remove_record(path, nodes_max=0xFFFFFFFF):
    return string(path) + struct.pack(">I", nodes_max)


def check_stat_record(path, stat=ANY, version=-1):
    return path_version(path, version) + struct.pack(">qqqqiiiqiiq", *stat)


def page_record(path, after="", names_max=0, bytes_max=0, watch=False):
    return string(path) + string(after) + i32(names_max) + i32(bytes_max) + boolean(watch)


def read_listing(body):
    names, stat = body.strings(), body.stat()
    stats = [body.stat() for _ in range(body.i32())]
    data = [body.buffer() for _ in range(body.i32())]
    body.end()
    return names, stat, stats, data


def read_page(body):
    names, more, stat = body.strings(), body.boolean(), body.stat()
    body.end()
    return names, more, stat


def multi_results(client, op, *ops):
    """(type, error) of each result; `ops` are (opcode, record, how to read the result's record)."""
    reply = client.call(op, multi_record(*[one[:2] for one in ops]))
    assert reply.err == OK
    results = []
    for _, _, read in ops:
        kind, done, err = reply.body.i32(), reply.body.boolean(), reply.body.i32()
        assert not done
        if kind == -1:
            assert reply.body.i32() == err
        elif read:
            read(reply.body)
        results.append((kind, err))
    assert (reply.body.i32(), reply.body.boolean(), reply.body.i32()) == (-1, True, -1)
    reply.body.end()
    return results


# How a client finds out


def test_what_keepers_clients_ask_when_they_connect(client):
    flags, stat = client.get_data("/keeper/feature_flags")
    assert features(flags) == set(FEATURES) - {"MULTI_WATCHES", "PERSISTENT_WATCHES"}
    assert stat == wire.Stat(0, 0, 0, 0, 0, 0, 0, 0, len(flags), 0, 0)
    # Without bits, a number: filtered list, multiRead and check-not-exists.
    assert int(client.get_data("/keeper/api_version")[0]) == 3
    assert client.exists("/keeper/api_version").data_length == 1
    for other in ("/keeper", "/keeper/config", "/keeper/availability_zone"):
        assert client.code(GET_DATA, path_watch(other)) == NO_NODE


def test_a_stock_client_sees_nothing_of_it(client):
    names, stat = client.children("/")
    assert "keeper" not in names and stat.num_children == len(names)
    body = client.ok(GET_ALL_CHILDREN_NUMBER, string("/zookeeper"))
    assert body.i32() == 2
    assert client.code(SET_DATA, set_data_record("/keeper/feature_flags", b"x")) == NO_NODE
    assert client.code(DELETE, path_version("/keeper/feature_flags")) == NO_NODE
    assert client.code(CREATE, create_record("/keeper/feature_flags")) == NO_NODE
    assert client.create("/keeper") == "/keeper"
    assert client.children("/keeper")[0] == []
    client.create("/keeper/feature_flags", b"mine")
    assert client.get_data("/keeper/feature_flags")[0] == b"mine"
    client.delete("/keeper/feature_flags")
    client.delete("/keeper")
    assert len(client.get_data("/keeper/feature_flags")[0]) == 2


@pytest.mark.parametrize("op", [499, 507, 997, 1000, 1999, 2001])
def test_what_is_not_there_is_refused_as_ever(client, op):
    assert client.code(op, bytes(100)) == UNIMPLEMENTED
    assert client.is_closed()


# Lists


def test_filtered_lists(client, base):
    for name, flags in (("a", 0), ("b", EPHEMERAL), ("c", 0)):
        client.create(f"{base}/{name}", flags=flags)
    for kind, expected in ((ALL, ["a", "b", "c"]), (PERSISTENT_ONLY, ["a", "c"]), (EPHEMERAL_ONLY, ["b"])):
        body = client.ok(FILTERED_LIST, list_record(base, kind))
        assert (body.strings(), body.stat()) == (expected, client.exists(base))
        body.end()
    assert client.code(FILTERED_LIST, list_record(base + "/none")) == NO_NODE
    assert client.code(FILTERED_LIST, list_record(base, 3)) == MARSHALLING
    client.ok(FILTERED_LIST, list_record(base, watch=True))
    client.create(base + "/d")
    assert client.take_events() == [(CHILDREN_CHANGED, base)]


@pytest.mark.parametrize("stats", [False, True])
@pytest.mark.parametrize("data", [False, True])
def test_lists_with_stats_and_data(client, base, stats, data):
    client.create(base + "/a", b"one")
    client.create(base + "/b", None)
    client.create(base + "/e", b"two", EPHEMERAL)
    names, stat, seen_stats, seen_data = read_listing(client.ok(LIST_WITH_STATS_AND_DATA, listing_record(base, ALL, stats, data)))
    assert (names, stat) == (["a", "b", "e"], client.exists(base))
    assert seen_stats == ([client.exists(f"{base}/{name}") for name in names] if stats else [])
    assert seen_data == ([b"one", None, b"two"] if data else [])
    names, _, seen_stats, _ = read_listing(client.ok(LIST_WITH_STATS_AND_DATA, listing_record(base, EPHEMERAL_ONLY)))
    assert names == ["e"] and seen_stats[0].ephemeral_owner == client.hello.session


def test_the_data_of_a_list_has_a_bound(client, base):
    for i in range(85):
        client.create(f"{base}/{i:02}", bytes(800_000), EPHEMERAL if i < 2 else 0)
    assert client.code(LIST_WITH_STATS_AND_DATA, listing_record(base)) == BAD_ARGUMENTS
    assert len(read_listing(client.ok(LIST_WITH_STATS_AND_DATA, listing_record(base, data=False)))[2]) == 85
    few = read_listing(client.ok(LIST_WITH_STATS_AND_DATA, listing_record(base, EPHEMERAL_ONLY)))[3]
    assert [len(data) for data in few] == [800_000] * 2
    client.ok(REMOVE_RECURSIVE, remove_record(base))


# Writes with conditions


def test_create_if_not_exists(client, base):
    path = base + "/x"
    first = client.call(CREATE_IF_NOT_EXISTS, create_record(path, b"1"))
    assert (first.err, first.body.string()) == (OK, path)
    first.body.end()
    made = client.exists(path)
    again = client.call(CREATE_IF_NOT_EXISTS, create_record(path, b"2", flags=EPHEMERAL))
    assert (again.err, again.body.string()) == (OK, path)
    again.body.end()
    assert again.zxid > first.zxid and client.get_data(path) == (b"1", made)
    assert client.code(CREATE_IF_NOT_EXISTS, create_record(path, flags=SEQUENTIAL)) == BAD_ARGUMENTS
    assert client.code(CREATE_IF_NOT_EXISTS, create_record(path + "/y/z")) == NO_NODE


def test_try_remove(client, base):
    path = base + "/x"
    client.create(path)
    client.create(path + "/y")
    for there, version in ((path, -1), (path, 7), (base + "/none", -1), (base + "/none/at/all", -1)):
        client.ok(TRY_REMOVE, path_version(there, version)).end()
    assert client.exists(path)
    client.ok(TRY_REMOVE, path_version(path + "/y", 0)).end()
    assert client.exists(path + "/y") is None


def test_checks_alone(client, base):
    stat = client.exists(base)
    client.ok(CHECK_STAT, check_stat_record(base, stat, stat.version)).end()
    client.ok(CHECK_STAT, check_stat_record(base)).end()
    client.ok(CHECK_NOT_EXISTS, path_version(base + "/none")).end()
    client.ok(CHECK_NOT_EXISTS, path_version(base, 7)).end()
    assert client.code(CHECK_NOT_EXISTS, path_version(base)) == NODE_EXISTS
    assert client.code(CHECK_STAT, check_stat_record(base + "/none")) == NO_NODE
    for field in wire.Stat._fields:
        wrong = ANY._replace(**{field: 77})
        assert client.code(CHECK_STAT, check_stat_record(base, wrong)) == BAD_VERSION


def test_all_of_them_in_a_multi(client, base):
    path = base + "/x"
    stat = client.exists(base)
    text = lambda body: body.string()  # noqa: E731
    results = multi_results(
        client,
        MULTI,
        (CHECK_STAT, check_stat_record(base, stat), None),
        (CHECK_NOT_EXISTS, path_version(path), None),
        (CREATE_IF_NOT_EXISTS, create_record(path), text),
        (CREATE_IF_NOT_EXISTS, create_record(path), text),
        (CREATE, create_record(path + "/y"), text),
        (TRY_REMOVE, path_version(path), None),
        (REMOVE_RECURSIVE, remove_record(path, 2), None),
        (TRY_REMOVE, path_version(path), None),
        (CREATE, create_record(base + "/z"), text),
    )
    # The types are those that stock decoders know.
    assert results == [(13, 0), (13, 0), (1, 0), (1, 0), (1, 0), (2, 0), (2, 0), (2, 0), (1, 0)]
    assert client.children(base)[0] == ["z"]
    refused = multi_results(
        client, MULTI, (REMOVE_RECURSIVE, remove_record(base), None), (CHECK_NOT_EXISTS, path_version("/"), None)
    )
    assert refused == [(-1, 0), (-1, NODE_EXISTS)]
    assert client.children(base)[0] == ["z"]


def test_reads_in_a_multi_read(client, base):
    client.create(base + "/a", b"one")
    listing = []
    results = multi_results(
        client,
        MULTI_READ,
        (EXISTS, path_watch(base), lambda body: body.stat()),
        (GET_DATA, path_watch("/keeper/api_version"), lambda body: (body.buffer(), body.stat())),
        (GET_CHILDREN, path_watch(base), lambda body: body.strings()),
        (FILTERED_LIST, list_record(base, EPHEMERAL_ONLY), lambda body: (body.strings(), body.stat())),
        (
            LIST_WITH_STATS_AND_DATA,
            listing_record(base, watch=True),
            lambda body: listing.extend(
                [body.strings(), body.stat(), [body.stat() for _ in range(body.i32())], [body.buffer() for _ in range(body.i32())]]
            ),
        ),
        (EXISTS, path_watch(base + "/none", True), None),
    )
    assert results == [(3, 0), (4, 0), (8, 0), (12, 0), (506, 0), (-1, NO_NODE)]
    assert listing == [["a"], client.exists(base), [client.exists(base + "/a")], [b"one"]]
    client.create(base + "/none")
    assert client.take_events() == [], "no watches from a multiRead, as in ZooKeeper"


# Trees that go at once


def test_a_tree_goes_in_one_transaction(client, server, base):
    for path, flags in (("/t", 0), ("/t/a", EPHEMERAL), ("/t/b", 0), ("/t/b/x", 0)):
        client.create(base + path, flags=flags)
    watcher = wire.open_session(server.port)
    watcher.ok(ADD_WATCH, string(base) + i32(1))
    watcher.children(base, True)
    assert client.code(REMOVE_RECURSIVE, remove_record(base + "/t", 3)) == NOT_EMPTY
    reply = client.call(REMOVE_RECURSIVE, remove_record(base + "/t", 4))
    reply.body.end()
    assert reply.err == OK
    watcher.call(PING, xid=-2)
    seen = [(event.kind, event.path[len(base) :], event.zxid) for event in watcher.events]
    gone = [(DELETED, path, reply.zxid) for path in ("/t/a", "/t/b/x", "/t/b", "/t")]
    assert seen == [*gone, (CHILDREN_CHANGED, "", reply.zxid)]
    stat = client.exists(base)
    assert (stat.num_children, stat.cversion, stat.pzxid) == (0, 2, reply.zxid)
    assert client.code(REMOVE_RECURSIVE, remove_record(base + "/t")) == NO_NODE
    assert client.code(REMOVE_RECURSIVE, remove_record("/zookeeper")) == BAD_ARGUMENTS
    assert client.code(REMOVE_RECURSIVE, remove_record("/")) == BAD_ARGUMENTS
    watcher.close()


def test_a_removed_tree_stays_away_after_a_kill(make_server):
    server = make_server().start()
    client = wire.open_session(server.port)
    for path in ("/t", "/t/a", "/t/a/b", "/kept"):
        client.create(path)
    client.ok(REMOVE_RECURSIVE, remove_record("/t"))
    client.ok(CREATE_IF_NOT_EXISTS, create_record("/kept"))
    client.ok(TRY_REMOVE, path_version("/none"))
    server.kill()
    server.start()
    again = wire.open_session(server.port)
    assert again.children("/")[0] == ["kept", "zookeeper"]
    again.close()
    client.close()


# Pages


def test_a_directory_by_page(client, base):
    names = [f"n{i:04}" for i in range(3000)]
    for start in range(0, 3000, 500):
        ops = [(CREATE, create_record(f"{base}/{name}"), lambda body: body.string()) for name in names[start : start + 500]]
        multi_results(client, MULTI, *ops)
    # A name takes nine bytes.
    for names_max, bytes_max, size in ((7, 0, 7), (0, 90, 10), (1000, 89, 9), (3000, 0, 3000)):
        seen, after, more = [], "", True
        while more:
            page, more, stat = read_page(client.ok(CHILDREN_PAGE, page_record(base, after, names_max, bytes_max)))
            assert len(page) == size or not more
            assert stat.num_children == 3000
            seen += page
            after = page[-1]
        assert seen == names
    # A null `after` is the start, too.
    body = client.ok(CHILDREN_PAGE, string(base) + string(None) + i32(1) + i32(0) + boolean(False))
    assert read_page(body)[:2] == (["n0000"], True)
    assert client.code(CHILDREN_PAGE, page_record(base, names_max=-1)) == BAD_ARGUMENTS
    assert client.code(CHILDREN_PAGE, page_record(base + "/none")) == NO_NODE


def test_pages_while_others_write(client, server, base):
    """What stays there all the time is seen once."""
    kept = [f"k{i:03}" for i in range(300)]
    for name in kept:
        client.create(f"{base}/{name}")
    done = threading.Event()

    def churn():
        other = wire.open_session(server.port)
        i = 0
        while not done.is_set():
            other.create(f"{base}/k{i % 300:03}-{i}")
            other.delete(f"{base}/k{i % 300:03}-{i}")
            i += 1
        other.close()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(10):
            seen, after, more = [], "", True
            while more:
                page, more, _ = read_page(client.ok(CHILDREN_PAGE, page_record(base, after, 7)))
                seen += page
                after = page[-1]
            assert seen == sorted(set(seen))
            assert [name for name in seen if "-" not in name] == kept
    finally:
        done.set()
        thread.join()


def test_what_the_documentation_shows(client, server, base):
    page = (ROOT / "docs" / "extensions.md").read_text()
    lines = re.findall(r"^    ((?:[0-9a-f]{2} )+) +\S", page, re.M)
    assert bytes.fromhex("".join(lines)) == page_record("/dir", "n0999", 1000)
    program = re.search(r"^    import struct\n(?:(?:    .*)?\n)+", page, re.M).group()
    shown = {}
    exec(textwrap.dedent(program), shown)
    names = [f"n{i:03}" for i in range(50)]
    for name in names:
        client.create(f"{base}/{name}")
    kazoo = kazoo_client(server)
    try:
        assert list(shown["children"](kazoo, base, 7)) == names
        assert list(shown["children"](kazoo, base + "/n000")) == []
    finally:
        end(kazoo)
