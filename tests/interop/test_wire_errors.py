"""Which error an operation gives when several are possible, which paths exist at all, and requests that do not parse."""

import pytest
import wire
from wire import *  # noqa: F403

BAD_PATHS = ["", "a", "/a/", "//", "/a//b", "/a/./b", "/a/../b", "/.", "/..", "/a/\x01", "/a/\x7f", "/a/\x9f", "/a/\ue000", "/a/\ufff0"]
NONE = "/no-such-parent/x"
BAD_ACL = [(31, "world", "somebody")]


@pytest.fixture
def tree(connect, base):
    """Nodes of somebody else below `base`: ephemeral, locked (nobody else may do anything), full (with a child)."""
    owner = connect()
    owner.auth("digest", b"owner:x")
    owner.create(base + "/locked", acl=[(31, "auth", "")])
    owner.create(base + "/locked/child", acl=[(31, "auth", "")])
    owner.create(base + "/ephemeral", flags=wire.EPHEMERAL)
    owner.create(base + "/ephemeral-locked", flags=wire.EPHEMERAL, acl=[(31, "auth", "")])
    owner.create(base + "/full")
    owner.create(base + "/full/child")
    return base


@pytest.mark.parametrize("op", [CREATE, CREATE2])
def test_the_errors_of_create_in_their_order(client, tree, op):
    code = lambda *args, **fields: client.code(op, create_record(*args, **fields))  # noqa: E731
    for flags in (-1, 7, 8, 99):
        assert code("bad", acl=BAD_ACL, flags=flags) == BAD_ARGUMENTS
    assert code("no-slash", acl=BAD_ACL) == BAD_ARGUMENTS
    assert code(NONE + "\0", acl=BAD_ACL) == BAD_ARGUMENTS
    for acl in (BAD_ACL, [], None, [(31, "nosuch", "x")], [(31, "digest", "nocolon")], [(31, "auth", "")], [(31, "ip", "1.2.3")]):
        assert code(NONE, acl=acl) == INVALID_ACL
        assert code(tree + "/locked/x", acl=acl) == INVALID_ACL
    assert code(NONE) == NO_NODE
    assert code(NONE + "/./x") == NO_NODE
    assert code(tree + "/locked/child") == NO_AUTH
    assert code(tree + "/locked/.") == NO_AUTH
    assert code(tree + "/.") == BAD_ARGUMENTS
    assert code(tree + "/full/child") == NODE_EXISTS
    assert code(tree + "/ephemeral-locked/x") == NO_AUTH
    assert code(tree + "/ephemeral/x") == NO_CHILDREN_FOR_EPHEMERALS
    assert code(tree + "/ephemeral/") == BAD_ARGUMENTS
    assert code("/") in (NODE_EXISTS, BAD_ARGUMENTS)


def test_create_of_the_root_says_that_it_exists(client):
    assert client.code(CREATE, create_record("/")) == NODE_EXISTS


def test_the_errors_of_delete_in_their_order(client, tree):
    code = lambda *args: client.code(DELETE, path_version(*args))  # noqa: E731
    for path in ("/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config", "no-slash", "", NONE + "\0"):
        assert code(path, 7) == BAD_ARGUMENTS
    assert code(NONE, 7) == NO_NODE
    assert code(tree + "/locked/none", 7) == NO_AUTH
    assert code(tree + "/locked/child", 7) == NO_AUTH
    assert code(tree + "/none", 7) == NO_NODE
    assert code(tree + "/none/", 7) == NO_NODE
    assert code(tree + "/full", 7) == BAD_VERSION
    assert code(tree + "/full", 0) == NOT_EMPTY
    assert code(tree + "/full", -1) == NOT_EMPTY
    assert code(tree + "/full/child", 0) == OK
    assert code(tree + "/full", 0) == OK


def test_the_errors_of_set_data_in_their_order(client, tree):
    code = lambda path, version=7: client.code(SET_DATA, set_data_record(path, b"x", version))  # noqa: E731
    for path in BAD_PATHS:
        assert code(path) == BAD_ARGUMENTS, path
    assert code(NONE) == NO_NODE
    assert code(tree + "/locked") == NO_AUTH
    assert code(tree + "/full") == BAD_VERSION
    assert code(tree + "/full", 0) == OK


def test_the_errors_of_set_acl_in_their_order(client, tree):
    code = lambda path, acl=OPEN, version=7: client.code(SET_ACL, set_acl_record(path, acl, version))  # noqa: E731
    for path in BAD_PATHS:
        assert code(path, BAD_ACL) == BAD_ARGUMENTS, path
    assert code(NONE, BAD_ACL) == INVALID_ACL
    assert code(NONE) == NO_NODE
    assert code(tree + "/locked", BAD_ACL) == INVALID_ACL
    assert code(tree + "/locked") == NO_AUTH
    assert code(tree + "/full") == BAD_VERSION
    assert code(tree + "/full", OPEN, 0) == OK


def test_the_errors_of_check_in_their_order(client, tree):
    code = lambda path, version=7: client.multi((CHECK, path_version(path, version)))[0][1]  # noqa: E731
    for path in BAD_PATHS:
        assert code(path) == BAD_ARGUMENTS, path
    assert code(NONE) == NO_NODE
    assert code(tree + "/locked") == NO_AUTH
    assert code(tree + "/full") == BAD_VERSION
    assert code(tree + "/full", 0) == OK


def test_reconfiguring_is_disabled(client):
    record = string(None) + string(None) + string("server.1=a:1:2:participant;3") + i64(-1)
    assert client.code(RECONFIG, record) == RECONFIG_DISABLED
    assert client.exists("/") is not None


@pytest.mark.parametrize("op", [GET_DATA, EXISTS, GET_CHILDREN, GET_CHILDREN2])
def test_reads_of_impossible_paths_find_no_node(client, op):
    for path in BAD_PATHS[1:] + ["/zookeeper/"]:
        assert client.code(op, path_watch(path)) == NO_NODE, path
    assert client.code(GET_ACL, string("a")) == NO_NODE


def test_for_reads_the_empty_path_is_the_root(client):
    assert client.exists("") == client.exists("/")
    assert client.get_data("") == client.get_data("/")
    assert client.children("") == client.children("/")


def test_paths_that_are_allowed(client, base):
    for name in ("...", ".hidden", "a.b", "a b", "tab-free", "..a", "-", "0", "%", "a\\b", "\u00a0", "\uf900"):
        path = f"{base}/{name}"
        assert client.create(path) == path
        assert client.exists(path) is not None
    for path in BAD_PATHS[3:]:
        assert client.code(CREATE, create_record(base + path)) in (BAD_ARGUMENTS, NO_NODE), path


def test_digest_ids_are_valid_when_java_would_split_them_in_two(client, base):
    for i, (id, valid) in enumerate((("u:h", True), ("u:h:", True), ("u:", False), ("u", False), ("a:b:c", False), (":h", True), ("", False))):
        code = client.code(CREATE, create_record(f"{base}/{i}", acl=[(31, "digest", id)]))
        assert code == (OK if valid else INVALID_ACL), id


def truncations(record):
    return [record[:cut] for cut in range(len(record))]


@pytest.mark.parametrize(
    "op, record",
    [
        (CREATE, create_record("/malformed", b"data")),
        (CREATE2, create_record("/malformed", b"data")),
        (DELETE, path_version("/malformed")),
        (EXISTS, path_watch("/malformed")),
        (GET_DATA, path_watch("/malformed")),
        (SET_DATA, set_data_record("/malformed", b"data")),
        (GET_ACL, string("/malformed")),
        (SET_ACL, set_acl_record("/malformed", OPEN)),
        (GET_CHILDREN, path_watch("/malformed")),
        (GET_CHILDREN2, path_watch("/malformed")),
        (SYNC, string("/malformed")),
        (MULTI, multi_record((CREATE, create_record("/malformed")))),
        (SET_WATCHES, set_watches_record(0, ["/malformed"], ["/malformed"], ["/malformed"])),
    ],
)
def test_requests_cut_anywhere_are_refused_and_the_connection_stays(client, op, record):
    for cut in truncations(record):
        reply = client.call(op, cut)
        assert reply.err == MARSHALLING, f"{len(cut)} of {len(record)} bytes"
    assert client.exists("/malformed") is None


def test_absurd_counts_and_lengths_are_refused_and_the_connection_stays(client, base):
    huge, negative = i32(2**31 - 1), i32(-2)
    for op, record in (
        (CREATE, string(base + "/a") + huge + b"data"),
        (CREATE, string(base + "/a") + negative),
        (CREATE, huge + b"/a"),
        (CREATE, negative + b"/a"),
        (CREATE, string(base + "/a") + buffer(b"") + huge + i32(31)),
        (SET_ACL, string(base) + huge + acl_list(OPEN)[4:] + i32(-1)),
        (GET_DATA, huge + b"/a\0"),
        (MULTI, (i32(CREATE) + boolean(False) + i32(-1)) * 100),
        (SET_WATCHES, i64(0) + huge),
        (SET_WATCHES, i64(0) + huge + string("/") * 1000),
    ):
        assert client.code(op, record) == MARSHALLING
    assert client.exists(base) is not None


def test_bytes_behind_a_record_are_ignored(client, base):
    rest = b"more bytes"
    assert client.code(CREATE, create_record(base + "/a") + rest) == OK
    assert client.code(GET_DATA, path_watch(base + "/a") + rest) == OK
    assert client.call(PING, rest, xid=-2).err == OK
    assert client.code(MULTI, multi_record((DELETE, path_version(base + "/a"))) + rest) == OK
