#!/usr/bin/env python3
"""Captures golden bytes from a real Apache ZooKeeper: what clients say and what it answers, frame by frame.

    tests/interop/capture_golden.py JARS_DIR [SCENARIO ...]

JARS_DIR is where .ci/fetch-zookeeper puts the jars (it is called with it). Every scenario runs on a standalone server
of its own on a loopback port, so that its zxids start at 1, and becomes tests/golden/NAME.hex; the scenario
`fourletter` writes the text of each four-letter word to tests/golden/fourletter/. tests/golden/README.md describes the
format. Refuses to judge the answers: it records them, tests/golden.rs compares.
"""

import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
VERSION = "Apache ZooKeeper 3.9.3"

CREATE, DELETE, EXISTS, GET_DATA, SET_DATA, GET_ACL, SET_ACL, GET_CHILDREN, SYNC = range(1, 10)
PING, GET_CHILDREN2, CHECK, MULTI, CREATE2, RECONFIG, CHECK_WATCHES, REMOVE_WATCHES = range(11, 19)
CREATE_CONTAINER, DELETE_CONTAINER, CREATE_TTL, MULTI_READ = range(19, 23)
AUTH, SET_WATCHES, SASL, GET_EPHEMERALS, GET_ALL_CHILDREN_NUMBER, SET_WATCHES2, ADD_WATCH, WHO_AM_I = range(100, 108)
CLOSE_SESSION = -11

PERSISTENT, EPHEMERAL, SEQUENTIAL, EPHEMERAL_SEQUENTIAL, CONTAINER, TTL, SEQUENTIAL_TTL = range(7)
CHILDREN_WATCH, DATA_WATCH, ANY_WATCH, PERSISTENT_WATCH, RECURSIVE_WATCH = range(1, 6)


# ---- jute


def i32(value):
    return struct.pack(">i", value)


def i64(value):
    return struct.pack(">q", value)


def flag(value):
    return bytes([value])


def buffer(value):
    return i32(-1) if value is None else i32(len(value)) + value


def text(value):
    return buffer(value.encode() if isinstance(value, str) else value)


def vector(elements):
    return i32(-1) if elements is None else i32(len(elements)) + b"".join(elements)


def strings(values):
    return vector(None if values is None else [text(v) for v in values])


def acl(*entries):
    return vector([i32(perms) + text(scheme) + text(ident) for perms, scheme, ident in entries])


OPEN = acl((31, "world", "anyone"))


def create(path, data=b"", access=OPEN, flags=PERSISTENT):
    return text(path) + buffer(data) + access + i32(flags)


def create_ttl(path, ttl, data=b"", access=OPEN, flags=TTL):
    return create(path, data, access, flags) + i64(ttl)


def path_version(path, version=-1):
    return text(path) + i32(version)


def path_watch(path, watch=False):
    return text(path) + flag(watch)


def set_data(path, data, version=-1):
    return text(path) + buffer(data) + i32(version)


def set_acl(path, access, version=-1):
    return text(path) + access + i32(version)


def multi(*ops):
    """ops: pairs of type and record."""
    return b"".join(i32(kind) + flag(False) + i32(-1) + record for kind, record in ops) + i32(-1) + flag(True) + i32(-1)


def set_watches(zxid, data=(), exist=(), child=()):
    return i64(zxid) + strings(data) + strings(exist) + strings(child)


def auth(scheme, credentials):
    return i32(0) + text(scheme) + buffer(credentials)


# ---- the server


class Server:
    def __init__(self, class_path, extra_config="", java_options=()):
        self.directory = Path(tempfile.mkdtemp(prefix="golden-"))
        self.class_path = class_path
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = (
            f"tickTime=2000\ndataDir={self.directory}/data\nclientPort={self.port}\nclientPortAddress=127.0.0.1\n"
            f"admin.enableServer=false\nextendedTypesEnabled=true\n{extra_config}"
        )
        (self.directory / "zoo.cfg").write_text(config)
        log = open(self.directory / "log", "wb")
        main = "org.apache.zookeeper.server.ZooKeeperServerMain"
        # The password of `super` is `secret`.
        options = ["-Dzookeeper.DigestAuthenticationProvider.superDigest=super:lK75jTNcA+U9vtVEw5vB51mj/w4=", *java_options]
        command = ["java", "-Xmx256m", *options, "-cp", class_path, main, str(self.directory / "zoo.cfg")]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)
        self.wait_until_serving()

    def wait_until_serving(self):
        for _ in range(400):
            try:
                if b"Zookeeper version" in self.four_letter("srvr"):
                    return
            except OSError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise SystemExit("ZooKeeper does not start:\n" + (self.directory / "log").read_text()[-4000:])

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def four_letter(self, word, more=b""):
        with self.connect() as connection:
            connection.sendall(word.encode() + more)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
            return answer

    def stop(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.directory)


# ---- recording


class Scenario:
    """The lines of one golden file."""

    def __init__(self, server):
        self.server = server
        self.lines = []

    def note(self, words):
        self.lines.append(f"# {words}")

    def connect(self, label):
        return Connection(self, label)

    def session(self, label, timeout=30000):
        connection = self.connect(label)
        connection.handshake(timeout=timeout)
        return connection


class Connection:
    def __init__(self, scenario, label):
        self.scenario, self.label, self.xid = scenario, label, 0
        self.socket = scenario.server.connect()
        self.session, self.password = 0, bytes(16)

    def record(self, sign, frame=b""):
        self.scenario.lines.append(f"{self.label}{sign} {frame.hex()}".rstrip())

    def write(self, payload, canonical=True):
        frame = i32(len(payload)) + payload
        self.record(">" if canonical else "~", frame)
        self.socket.sendall(frame)

    def receive_exactly(self, count):
        data = b""
        while len(data) < count:
            chunk = self.socket.recv(count - len(data))
            if not chunk:
                return None
            data += chunk
        return data

    def read(self):
        """One frame without its length, recorded; None if the server has closed."""
        try:
            head = self.receive_exactly(4)
            body = head and self.receive_exactly(struct.unpack(">i", head)[0])
        except ConnectionResetError:
            body = None
        if body is None:
            self.record("!")
            return None
        self.record("<", head + body)
        return body

    def handshake(self, session=0, password=bytes(16), timeout=30000, zxid=0, read_only=False):
        tail = b"" if read_only is None else flag(read_only)
        self.write(i32(0) + i64(zxid) + i32(timeout) + i64(session) + buffer(password) + tail)
        answer = self.read()
        if answer:
            self.session, self.password = struct.unpack(">q", answer[8:16])[0], answer[20:36]

    def call(self, words, opcode, record=b"", xid=None, canonical=True):
        """Sends a request and reads up to its reply, or to the end of the connection. Returns the reply."""
        if xid is None:
            self.xid += 1
            xid = self.xid
        self.scenario.note(words)
        self.write(i32(xid) + i32(opcode) + record, canonical)
        reply_xid = -2 if opcode == PING else xid
        while (frame := self.read()) is not None:
            if struct.unpack(">i", frame[:4])[0] == reply_xid:
                return frame
        return None

    def events(self, count):
        """Reads frames that answer nothing."""
        for _ in range(count):
            self.read()

    def closed(self):
        """The server must close now."""
        assert self.read() is None, "expected the end of the connection"

    def drop(self):
        self.scenario.note(f"{self.label} goes away without closing its session")
        self.socket.close()


# ---- scenarios


def handshake(s):
    s.note("44 bytes: a client from before read-only mode; the reply has 36")
    s.connect("a").handshake(read_only=None)
    s.note("45 bytes; the reply has 37")
    b = s.connect("b")
    b.handshake()
    s.note("a client that would do with a read-only server")
    s.connect("c").handshake(read_only=True)
    s.note("timeouts are clamped to 2..20 ticks")
    s.connect("d").handshake(timeout=1)
    s.connect("e").handshake(timeout=10**9)
    b.call("something to move to another connection", CREATE, create("/e", b"mine", flags=EPHEMERAL))
    s.note("another connection takes the session over; the old one is closed")
    f = s.connect("f")
    f.handshake(b.session, b.password)
    b.closed()
    f.call("the session still owns it", EXISTS, path_watch("/e"))
    s.note("a wrong password: session 0, then the end; the connection that held the session goes too")
    g = s.connect("g")
    g.handshake(f.session, bytes([1]) * 16)
    g.closed()
    s.note("an unknown session")
    h = s.connect("h")
    h.handshake(0x77, bytes(16), read_only=None)
    h.closed()
    s.note("a client that has seen the future is closed without a reply")
    s.connect("i").handshake(zxid=0x7FFF)
    s.note("a null password for a new session")
    j = s.connect("j")
    j.write(i32(0) + i64(0) + i32(30000) + i64(0) + buffer(None) + flag(False), canonical=False)
    j.read()
    s.note("a frame that is too short for a handshake")
    k = s.connect("k")
    k.write(bytes(20), canonical=False)
    k.closed()


def creates(s):
    a = s.session("a")
    a.call("create", CREATE, create("/a", b"data"))
    a.call("create with null data", CREATE, create("/null", None))
    a.call("create with empty data", CREATE, create("/empty", b""))
    a.call("create2", CREATE2, create("/a/b", b"two"))
    a.call("ephemeral", CREATE, create("/a/e", b"", flags=EPHEMERAL))
    a.call("ephemeral, with a Stat", CREATE2, create("/a/e2", b"", flags=EPHEMERAL))
    a.call("sequential", CREATE, create("/a/s-", b"", flags=SEQUENTIAL))
    a.call("sequential, nothing but a number", CREATE, create("/a/", b"", flags=SEQUENTIAL))
    a.call("ephemeral and sequential", CREATE2, create("/a/es-", b"", flags=EPHEMERAL_SEQUENTIAL))
    a.call("container", CREATE_CONTAINER, create("/c", b"", flags=CONTAINER))
    a.call("child of a container", CREATE2, create("/c/x"))
    a.call("TTL", CREATE_TTL, create_ttl("/t", 10000))
    a.call("sequential TTL", CREATE_TTL, create_ttl("/t-", 10000, flags=SEQUENTIAL_TTL))
    a.call("the longest TTL", CREATE_TTL, create_ttl("/t-long", 0xFFFFFFFFFF))
    a.call("a list of access control", CREATE, create("/acl", b"", acl((1, "world", "anyone"), (31, "ip", "127.0.0.1"))))
    a.call("unknown permission bits", CREATE, create("/bits", b"", acl((0x7F, "world", "anyone"))))
    s.note("what they look like afterwards")
    for path in ["/", "/a", "/a/e", "/c", "/t", "/null", "/empty"]:
        a.call(f"exists {path}", EXISTS, path_watch(path))
    create_errors(s, a)
    create_paths(a)


def create_errors(s, a):
    s.note("refused: -110 exists, -101 no parent, -108 parent is ephemeral, -114 ACL, -8 arguments")
    a.call("it exists", CREATE, create("/a"))
    a.call("it exists, with create2: no body either", CREATE2, create("/a"))
    a.call("the root exists", CREATE, create("/"))
    a.call("no parent", CREATE, create("/no/parent"))
    a.call("below an ephemeral", CREATE, create("/a/e/x"))
    a.call("below an ephemeral, what exists nowhere", CREATE, create("/a/e/x/y"))
    a.call("null list", CREATE, create("/x", b"", i32(-1)))
    a.call("empty list", CREATE, create("/x", b"", i32(0)))
    a.call("null scheme in the list", CREATE, create("/x", b"", acl((31, None, "anyone"))), canonical=False)
    a.call("null id in the list", CREATE, create("/x", b"", acl((31, "world", None))), canonical=False)
    a.call("unknown scheme", CREATE, create("/x", b"", acl((31, "nobody", "x"))))
    a.call("world, but not anyone", CREATE, create("/x", b"", acl((31, "world", "someone"))))
    a.call("auth without an identity", CREATE, create("/x", b"", acl((31, "auth", ""))))
    a.call("digest without a hash", CREATE, create("/x", b"", acl((31, "digest", "user"))))
    a.call("ip that is none", CREATE, create("/x", b"", acl((31, "ip", "300.1.1.1"))))
    a.call("invalid list before missing parent", CREATE, create("/no/parent", b"", i32(0)))
    a.call("unknown flags", CREATE, create("/x", b"", flags=7))
    a.call("negative flags", CREATE, create("/x", b"", flags=-1))
    a.call("TTL flag through create", CREATE, create("/x", b"", flags=TTL))
    a.call("TTL 0", CREATE_TTL, create_ttl("/x", 0))
    a.call("TTL beyond 40 bits", CREATE_TTL, create_ttl("/x", 0x10000000000))
    a.call("createTTL with plain flags and a TTL", CREATE_TTL, create_ttl("/x", 1000, flags=PERSISTENT))
    a.call("null path", CREATE, create(None), canonical=False)
    a.call("the record ends early", CREATE, text("/x") + buffer(b""), canonical=False)
    a.call("bytes behind the record are ignored", CREATE, create("/tail") + b"more", canonical=False)
    a.call("container flag through create", CREATE2, create("/cf", b"", flags=CONTAINER))


def create_paths(a):
    for path in ["", "x", "x/y", "/x/", "/x//y", "//", "/x/.", "/x/../y", "/.", "/x\0", "/x\x01", "/x\x1f", "/x\x7f", "/x\x9f"]:
        a.call(f"path {path!r}", CREATE, create(path))
    for path in ["/ ", "/ä", "/日本", "/...", "/.x", "/a b"]:
        a.call(f"path {path!r}, a good one", CREATE, create(path))
    a.call("path with U+E000", CREATE, create("/\ue000"))
    a.call("path with U+FFF0", CREATE, create("/\ufff0"))
    a.call("path beyond the BMP", CREATE, create("/\U0001f600"))
    a.call("path that is not UTF-8", CREATE, create(b"/\xff\xfe"), canonical=False)
    a.call("sequential below a missing parent", CREATE, create("/none/s-", flags=SEQUENTIAL))
    a.call("sequential at the root", CREATE, create("/s-", flags=SEQUENTIAL))


def reads(s):
    a = s.session("a")
    a.call("create", CREATE, create("/a", b"data"))
    a.call("null data", CREATE, create("/a/null", None))
    a.call("empty data", CREATE, create("/a/empty", b""))
    a.call("ephemeral", CREATE, create("/a/e", bytes(range(256)), flags=EPHEMERAL))
    for path in ["/", "/a", "/a/null", "/a/e", "/zookeeper", "/zookeeper/config", "/zookeeper/quota", "/none"]:
        a.call(f"exists {path}", EXISTS, path_watch(path))
    for path in ["/", "/a", "/a/null", "/a/empty", "/a/e", "/zookeeper/config", "/none"]:
        a.call(f"getData {path}", GET_DATA, path_watch(path))
    for path in ["/", "/a", "/a/null", "/zookeeper", "/none"]:
        a.call(f"getChildren {path}", GET_CHILDREN, path_watch(path))
        a.call(f"getChildren2 {path}", GET_CHILDREN2, path_watch(path))
    for path in ["/", "/a", "/zookeeper/config", "/none"]:
        a.call(f"getACL {path}", GET_ACL, text(path))
    for path in ["/", "/a", "/a/e", "/zookeeper", "/none", ""]:
        a.call(f"getAllChildrenNumber {path!r}", GET_ALL_CHILDREN_NUMBER, text(path))
    for prefix in ["/", "/a", "/a/", "/a/e", "/b", "", " ", None]:
        a.call(f"getEphemerals {prefix!r}", GET_EPHEMERALS, text(prefix), canonical=prefix is not None)
    a.call("whoAmI", WHO_AM_I)
    s.note("reads do not validate paths")
    for path in ["", "a", "/a/", "//", "/x\0", "/a/../a"]:
        a.call(f"exists {path!r}", EXISTS, path_watch(path))
        a.call(f"getData {path!r}", GET_DATA, path_watch(path))
        a.call(f"getChildren2 {path!r}", GET_CHILDREN2, path_watch(path))
        a.call(f"getACL {path!r}", GET_ACL, text(path))
    s.note("null paths and records that end early are marshalling errors; the connection stays")
    for words, opcode in [("exists", EXISTS), ("getData", GET_DATA), ("getChildren", GET_CHILDREN), ("getChildren2", GET_CHILDREN2)]:
        a.call(f"{words} null", opcode, path_watch(None), canonical=False)
        a.call(f"{words} without its watch flag", opcode, text("/a"), canonical=False)
    a.call("getACL null", GET_ACL, text(None), canonical=False)
    a.call("a path longer than the frame", EXISTS, i32(1000) + b"/a", canonical=False)
    a.call("a watch flag of 2", EXISTS, text("/a") + bytes([2]), canonical=False)
    a.call("bytes that are not UTF-8", GET_DATA, path_watch(b"/a\xff"), canonical=False)


def writes(s):
    a = s.session("a")
    a.call("create", CREATE, create("/a", b"data"))
    a.call("setData, any version", SET_DATA, set_data("/a", b"one"))
    a.call("setData, right version", SET_DATA, set_data("/a", b"two", 1))
    a.call("setData, wrong version", SET_DATA, set_data("/a", b"three", 1))
    a.call("setData to null", SET_DATA, set_data("/a", None))
    a.call("setData to empty", SET_DATA, set_data("/a", b""))
    a.call("setData of the root", SET_DATA, set_data("/", b"root"))
    a.call("setData, no node", SET_DATA, set_data("/none", b""))
    a.call("setData, bad path", SET_DATA, set_data("a", b""))
    a.call("setData, a version below -1", SET_DATA, set_data("/a", b"", -2))
    a.call("setACL", SET_ACL, set_acl("/a", acl((31, "world", "anyone"), (1, "ip", "10.0.0.0/8"))))
    a.call("setACL with a duplicate", SET_ACL, set_acl("/a", acl((31, "world", "anyone"), (31, "world", "anyone"))))
    a.call("getACL has it once", GET_ACL, text("/a"))
    a.call("setACL, right version", SET_ACL, set_acl("/a", OPEN, 2))
    a.call("setACL, wrong version", SET_ACL, set_acl("/a", OPEN, 2))
    a.call("setACL, no node", SET_ACL, set_acl("/none", OPEN))
    a.call("setACL, bad path", SET_ACL, set_acl("/none/", OPEN))
    a.call("setACL, empty list", SET_ACL, set_acl("/a", i32(0)))
    a.call("setACL, null list and no node", SET_ACL, set_acl("/none", i32(-1)))
    a.call("a child", CREATE2, create("/a/b"))
    a.call("delete, not empty", DELETE, path_version("/a"))
    a.call("delete, wrong version", DELETE, path_version("/a/b", 7))
    a.call("delete, right version", DELETE, path_version("/a/b", 0))
    a.call("delete, no node", DELETE, path_version("/a/b"))
    a.call("delete, no parent", DELETE, path_version("/none/b"))
    for path in ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config", "a", "", "/x\0"]:
        a.call(f"delete {path!r}", DELETE, path_version(path))
    a.call("delete with a slash at the end", DELETE, path_version("/a/"))
    a.call("delete null", DELETE, path_version(None), canonical=False)
    a.call("cversion counts creates and deletes", EXISTS, path_watch("/a"))
    a.call("a sequence does not start again", CREATE, create("/a/s-", flags=SEQUENTIAL))
    a.call("sync", SYNC, text("/a"))
    a.call("sync of what does not exist", SYNC, text("/none"))
    a.call("sync of what is no path", SYNC, text("none"))
    a.call("setData without its version", SET_DATA, text("/a") + buffer(b""), canonical=False)


def multis(s):
    a = s.session("a")
    a.call("create", CREATE, create("/a", b"data"))
    a.call("every operation", MULTI, multi(
        (CREATE, create("/m", b"x")), (CREATE, create("/m/s-", flags=SEQUENTIAL)), (CREATE, create("/m/s-", flags=SEQUENTIAL)),
        (CHECK, path_version("/a", 0)), (SET_DATA, set_data("/m", b"y", 0)), (SET_DATA, set_data("/m", None, 1)),
        (CREATE, create("/m/e", flags=EPHEMERAL)), (DELETE, path_version("/m/e")),
    ))
    a.call("creates that return a Stat elsewhere", MULTI, multi(
        (CREATE2, create("/m2")), (CREATE_CONTAINER, create("/mc", flags=CONTAINER)), (CREATE_TTL, create_ttl("/mt", 5000)),
    ))
    a.call("container flag through create", MULTI, multi((CREATE, create("/mc2", flags=CONTAINER))))
    a.call("createContainer with plain flags", MULTI, multi((CREATE_CONTAINER, create("/mp", flags=PERSISTENT))))
    a.call("createTTL with plain flags", MULTI, multi((CREATE_TTL, create_ttl("/mp2", 5000, flags=PERSISTENT))))
    a.call("none at all", MULTI, multi())
    a.call("the second fails", MULTI, multi(
        (CREATE, create("/n")), (CREATE, create("/n/x/y")), (DELETE, path_version("/a")), (CHECK, path_version("/none"))))
    a.call("nothing of it happened", EXISTS, path_watch("/n"))
    a.call("the first fails", MULTI, multi((CHECK, path_version("/a", 9)), (CREATE, create("/n"))))
    a.call("the only one fails", MULTI, multi((SET_DATA, set_data("/none", b""))))
    a.call("a bad path", MULTI, multi((CREATE, create("n")), (CREATE, create("/n"))))
    a.call("an empty list of access control", MULTI, multi((CREATE, create("/n", b"", i32(0)))))
    a.call("unknown flags", MULTI, multi((CREATE, create("/n", flags=7))), canonical=False)
    a.call("TTL flag through create", MULTI, multi((CREATE, create("/n", flags=TTL))), canonical=False)
    a.call("TTL flag through create2", MULTI, multi((CREATE2, create("/n", flags=SEQUENTIAL_TTL))), canonical=False)
    a.call("TTL flag through createContainer", MULTI, multi((CREATE_CONTAINER, create("/n", flags=TTL))), canonical=False)
    a.call("unknown flags through createTTL", MULTI, multi((CREATE_TTL, create_ttl("/n", 5000, flags=7))))
    a.call("a TTL of 0", MULTI, multi((CREATE_TTL, create_ttl("/n", 0))))
    a.call("sequential TTL", MULTI, multi((CREATE_TTL, create_ttl("/mt-", 5000, flags=SEQUENTIAL_TTL))))
    a.call("create2, ephemeral and sequential", MULTI, multi((CREATE2, create("/m2/es-", flags=EPHEMERAL_SEQUENTIAL))))
    a.call("what the odd ones became: TTL, container", GET_CHILDREN2, path_watch("/mc2"))
    a.call("below createContainer with plain flags", MULTI, multi((CREATE, create("/mp/x")), (DELETE, path_version("/mp/x"))))
    a.call("unknown operation", MULTI, multi((99, b"")), canonical=False)
    a.call("setACL is not allowed", MULTI, multi((SET_ACL, set_acl("/a", OPEN))), canonical=False)
    a.call("exists is not allowed", MULTI, multi((EXISTS, path_watch("/a"))), canonical=False)
    a.call("writes and reads", MULTI, multi((DELETE, path_version("/a")), (GET_DATA, path_watch("/a"))), canonical=False)
    a.call("no end marker", MULTI, multi((DELETE, path_version("/a")))[:-9], canonical=False)
    a.call("a null path", MULTI, multi((DELETE, path_version(None))), canonical=False)
    multi_reads(s, a)


def multi_reads(s, a):
    a.call("multiRead", MULTI_READ, multi(
        (GET_DATA, path_watch("/a")), (GET_CHILDREN, path_watch("/m")), (GET_DATA, path_watch("/m")), (GET_CHILDREN, path_watch("/a"))))
    a.call("multiRead where some fail", MULTI_READ, multi(
        (GET_DATA, path_watch("/none")), (GET_DATA, path_watch("/a")), (GET_CHILDREN, path_watch("none"))))
    a.call("multiRead of nothing", MULTI_READ, multi())
    a.call("multiRead with getChildren2", MULTI_READ, multi((GET_CHILDREN2, path_watch("/a"))), canonical=False)
    a.call("multiRead with a write", MULTI_READ, multi((DELETE, path_version("/a"))), canonical=False)
    a.call("reads sent as multi", MULTI, multi((GET_DATA, path_watch("/a"))), canonical=False)
    s.note("watch flags inside a multiRead are ignored: the setData below tells nobody")
    a.call("multiRead with watches", MULTI_READ, multi((GET_DATA, path_watch("/a", True)), (GET_CHILDREN, path_watch("/a", True))))
    a.call("setData", SET_DATA, set_data("/a", b"new"))
    a.call("a ping would come behind the event", PING, xid=-2)


def watches(s):
    a, b = s.session("a"), s.session("b")
    a.call("create", CREATE, create("/a", b"data"))
    b.call("data watch", GET_DATA, path_watch("/a", True))
    b.call("child watch", GET_CHILDREN, path_watch("/a", True))
    b.call("watch of what does not exist yet", EXISTS, path_watch("/a/b", True))
    b.call("getData of it sets none", GET_DATA, path_watch("/a/c", True))
    a.call("NodeCreated and NodeChildrenChanged", CREATE, create("/a/b"))
    b.events(2)
    a.call("NodeDataChanged", SET_DATA, set_data("/a", b"new"))
    b.events(1)
    a.call("one-shot watches are gone", SET_DATA, set_data("/a", b"newer"))
    b.call("a ping would come behind an event", PING, xid=-2)
    b.call("own watch: the event precedes the reply", GET_CHILDREN2, path_watch("/a", True))
    b.call("own watch", EXISTS, path_watch("/a/own", True))
    b.call("create", CREATE, create("/a/own"))
    b.call("data and child watch of one node", GET_DATA, path_watch("/a/own", True))
    b.call("data and child watch of one node", GET_CHILDREN, path_watch("/a/own", True))
    a.call("NodeDeleted comes once", DELETE, path_version("/a/own"))
    b.events(1)
    b.call("a ping would come behind an event", PING, xid=-2)
    persistent_watches(s, a, b)
    watch_removal(s, a, b)


def persistent_watches(s, a, b):
    b.call("persistent", ADD_WATCH, path_version("/p", 0))
    b.call("persistent and recursive", ADD_WATCH, path_version("/r", 1))
    for path in ["/p", "/p/x", "/r", "/r/x", "/r/x/y"]:
        a.call(f"create {path}", CREATE, create(path))
    b.events(5)
    a.call("setData /p", SET_DATA, set_data("/p", b"1"))
    a.call("setData /r/x/y", SET_DATA, set_data("/r/x/y", b"1"))
    a.call("delete /p/x", DELETE, path_version("/p/x"))
    a.call("delete /r/x/y", DELETE, path_version("/r/x/y"))
    a.call("delete /p", DELETE, path_version("/p"))
    b.events(5)
    b.call("a ping would come behind more events", PING, xid=-2)
    a.call("a multi", MULTI, multi((CREATE, create("/r/m")), (SET_DATA, set_data("/r/m", b"1")), (DELETE, path_version("/r/m"))))
    b.events(3)
    b.call("unknown mode", ADD_WATCH, path_version("/r", 2))
    b.call("unknown mode", ADD_WATCH, path_version("/r", -1))


def watch_removal(s, a, b):
    b.call("checkWatches, recursive: there", CHECK_WATCHES, path_version("/r", RECURSIVE_WATCH))
    b.call("checkWatches, persistent: not there", CHECK_WATCHES, path_version("/r", PERSISTENT_WATCH))
    b.call("checkWatches, any", CHECK_WATCHES, path_version("/r", ANY_WATCH))
    b.call("checkWatches, data: a recursive watch is none", CHECK_WATCHES, path_version("/r", DATA_WATCH))
    b.call("checkWatches, children", CHECK_WATCHES, path_version("/r", CHILDREN_WATCH))
    b.call("checkWatches, a path without", CHECK_WATCHES, path_version("/none", ANY_WATCH))
    b.call("checkWatches, unknown type", CHECK_WATCHES, path_version("/r", 6))
    b.call("checkWatches, unknown type", CHECK_WATCHES, path_version("/r", 0))
    b.call("a data watch beside it", GET_DATA, path_watch("/r", True))
    b.call("checkWatches, data: there", CHECK_WATCHES, path_version("/r", DATA_WATCH))
    b.call("removeWatches, data", REMOVE_WATCHES, path_version("/r", DATA_WATCH))
    b.call("removeWatches, data again", REMOVE_WATCHES, path_version("/r", DATA_WATCH))
    b.call("removeWatches, persistent: not there", REMOVE_WATCHES, path_version("/r", PERSISTENT_WATCH))
    b.call("removeWatches, any", REMOVE_WATCHES, path_version("/r", ANY_WATCH))
    b.call("removeWatches, unknown type", REMOVE_WATCHES, path_version("/r", 9))
    a.call("nobody is told", SET_DATA, set_data("/r", b"silence"))
    b.call("a ping would come behind an event", PING, xid=-2)


def setwatches(s):
    a = s.session("a")
    for path in ["/same", "/changed", "/gone", "/parent", "/p", "/r"]:
        a.call(f"create {path}", CREATE, create(path))
    zxid = struct.unpack(">q", a.call("the zxid that the client has seen", PING, xid=-2)[4:12])[0]
    a.call("setData", SET_DATA, set_data("/changed", b"new"))
    a.call("delete", DELETE, path_version("/gone"))
    a.call("create", CREATE, create("/parent/child"))
    a.call("create", CREATE, create("/born"))
    a.call("setData", SET_DATA, set_data("/p", b"new"))
    b = s.session("b")
    b.call("setWatches: what changed meanwhile comes before the reply", SET_WATCHES, set_watches(
        zxid, ["/same", "/changed", "/gone"], ["/unborn", "/born"], ["/same", "/parent", "/gone"]), xid=-8)
    a.call("registered: data of /same", SET_DATA, set_data("/same", b"new"))
    b.events(1)
    a.call("registered: birth of /unborn", CREATE, create("/unborn"))
    b.events(1)
    a.call("registered: children of /same", CREATE, create("/same/child"))
    b.events(1)
    b.call("setWatches2: persistent watches have no catch-up", SET_WATCHES2,
           set_watches(zxid, ["/changed"]) + strings(["/p"]) + strings(["/r"]), xid=-8)
    a.call("persistent", SET_DATA, set_data("/p", b"newer"))
    a.call("recursive", CREATE, create("/r/x"))
    b.events(2)
    b.call("empty lists", SET_WATCHES, set_watches(zxid), xid=-8)
    b.call("with an ordinary xid", SET_WATCHES, set_watches(zxid, ["/same"]))
    b.call("null list", SET_WATCHES, set_watches(zxid, None, [], []), xid=-8, canonical=False)
    b.call("null path", SET_WATCHES, set_watches(zxid, [None]), xid=-8, canonical=False)
    b.call("setWatches2 without its last lists", SET_WATCHES2, set_watches(zxid), xid=-8, canonical=False)
    b.call("still alive", PING, xid=-2)


def authentication(s):
    a, b = s.session("a"), s.session("b")
    a.call("digest", AUTH, auth("digest", b"alice:wonderland"), xid=-4)
    a.call("ip", AUTH, auth("ip", b""), xid=-4)
    a.call("whoAmI", WHO_AM_I)
    a.call("auth stands for every identity", CREATE, create("/alice", b"secret", acl((31, "auth", ""))))
    a.call("a second digest", AUTH, auth("digest", b"bob:builder"), xid=-4)
    a.call("auth now means both", CREATE, create("/both", b"", acl((31, "auth", ""))))
    a.call("getACL by an administrator", GET_ACL, text("/alice"))
    a.call("read for all, everything for alice", SET_ACL, set_acl("/alice", acl(
        (1, "world", "anyone"), (31, "digest", "alice:Ixk9jMTa8bTnIN8COfaG3+RzQ1U="), (31, "auth", ""))))
    b.call("whoAmI", WHO_AM_I)
    b.call("getData is allowed", GET_DATA, path_watch("/alice", True))
    b.call("getACL hides the hashes", GET_ACL, text("/alice"))
    s.note("refused with -102")
    b.call("setData", SET_DATA, set_data("/alice", b""))
    b.call("create below", CREATE, create("/alice/x"))
    b.call("setACL", SET_ACL, set_acl("/alice", OPEN))
    b.call("exists without READ", EXISTS, path_watch("/both", True))
    b.call("getData without READ", GET_DATA, path_watch("/both", True))
    b.call("getChildren without READ", GET_CHILDREN, path_watch("/both"))
    b.call("getACL without READ or ADMIN", GET_ACL, text("/both"))
    b.call("getAllChildrenNumber without READ", GET_ALL_CHILDREN_NUMBER, text("/both"))
    b.call("check without READ", MULTI, multi((CHECK, path_version("/both"))))
    b.call("multiRead without READ", MULTI_READ, multi((GET_DATA, path_watch("/both")), (GET_CHILDREN, path_watch("/alice"))))
    b.call("delete needs DELETE on the parent only", DELETE, path_version("/both"))
    authentication_ends(s, a, b)


def authentication_ends(s, a, b):
    s.note("events are filtered by READ when they happen; the watch is used up all the same")
    a.call("only alice reads it from now on", SET_ACL, set_acl("/alice", acl((31, "auth", ""))))
    a.call("setData", SET_DATA, set_data("/alice", b"unseen"))
    b.call("a ping would come behind the event", PING, xid=-2)
    b.call("super", AUTH, auth("digest", b"super:secret"), xid=-4)
    b.call("super may do everything", GET_DATA, path_watch("/alice"))
    b.call("whoAmI", WHO_AM_I)
    c = s.session("c")
    c.call("credentials without a colon", AUTH, auth("digest", b"carol"), xid=-4)
    c.call("null credentials", AUTH, auth("ip", None), xid=-4)
    c.call("whoAmI", WHO_AM_I)
    c.call("world is no way to authenticate: -115, then the end", AUTH, auth("world", b"anyone"), xid=-4)
    c.closed()
    d = s.session("d")
    d.call("unknown scheme", AUTH, auth("nobody", b""), xid=-4)
    d.closed()
    e = s.session("e")
    e.call("null digest credentials", AUTH, auth("digest", None), xid=-4)
    f = s.session("f")
    f.call("an ordinary xid", AUTH, auth("digest", b"x:y"))


def sessions(s):
    a = s.session("a")
    a.call("ping", PING, xid=-2)
    a.call("ping with an ordinary xid", PING)
    a.call("ping with a body", PING, b"body", canonical=False)
    a.call("ephemeral", CREATE, create("/e", flags=EPHEMERAL))
    a.call("parent", CREATE, create("/p"))
    a.call("ephemeral below", CREATE, create("/p/e", flags=EPHEMERAL))
    b = s.session("b")
    b.call("watch", EXISTS, path_watch("/e", True))
    b.call("watch", GET_CHILDREN, path_watch("/p", True))
    b.call("somebody else's ephemerals do not count", GET_EPHEMERALS, text("/"))
    a.call("closeSession: reply, then the end", CLOSE_SESSION)
    a.closed()
    b.events(2)
    b.call("getAllChildrenNumber of the root", GET_ALL_CHILDREN_NUMBER, text("/"))
    s.note("the session is gone")
    c = s.connect("c")
    c.handshake(a.session, a.password)
    c.closed()
    s.note("an expired session: a is silent for longer than its 4 s")
    d = s.session("d", timeout=4000)
    d.call("ephemeral", CREATE, create("/e", flags=EPHEMERAL))
    b.call("watch", EXISTS, path_watch("/e", True))
    d.drop()
    b.events(1)
    s.note("several requests in one write are answered in their order")
    e = s.session("e")
    e.write(i32(1) + i32(CREATE) + create("/order"))
    e.write(i32(2) + i32(GET_DATA) + path_watch("/order"))
    e.write(i32(-2) + i32(PING))
    e.write(i32(3) + i32(DELETE) + path_version("/order"))
    e.write(i32(4) + i32(EXISTS) + path_watch("/order"))
    e.events(5)
    for label, words, opcode, record in [
        ("f", "reconfig of a standalone server", RECONFIG, text(None) + text(None) + text("server.1=localhost:1:2") + i64(-1)),
        ("g", "sasl without a mechanism", SASL, buffer(b"token")),
    ]:
        connection = s.session(label)
        connection.call(words, opcode, record, canonical=False)
        connection.call("ping", PING, xid=-2)


def unknown(s):
    s.note("-6 with zxid -1, then the end")
    for label, opcode in zip("abcdefg", [0, 10, 23, 99, 108, 1000, -3]):
        connection = s.session(label)
        if connection.call(f"opcode {opcode}", opcode, canonical=False) is not None:
            connection.closed()
    h = s.session("h")
    if h.call("check outside a multi", CHECK, path_version("/"), canonical=False) is not None:
        h.closed()
    s.note("frames that are no requests")
    i = s.session("i")
    i.write(i32(1), canonical=False)
    i.closed()
    j = s.session("j")
    j.record("~", i32(0xFFFFF + 1))
    j.socket.sendall(i32(0xFFFFF + 1))
    j.closed()
    k = s.session("k")
    k.record("~", i32(-1))
    k.socket.sendall(i32(-1))
    k.closed()


def quota(s):
    a = s.session("a")
    a.call("create", CREATE, create("/q", b"12345"))
    a.call("parent of quotas", CREATE, create("/zookeeper/quota/q"))
    a.call("limits", CREATE, create("/zookeeper/quota/q/zookeeper_limits", b"count=5,bytes=100"))
    a.call("stats", CREATE, create("/zookeeper/quota/q/zookeeper_stats", b"count=0,bytes=0"))
    a.call("counted at once", GET_DATA, path_watch("/zookeeper/quota/q/zookeeper_stats"))
    a.call("create", CREATE, create("/q/x", b"678"))
    a.call("counted", GET_DATA, path_watch("/zookeeper/quota/q/zookeeper_stats"))
    a.call("setData", SET_DATA, set_data("/q/x", b"6"))
    a.call("counted", GET_DATA, path_watch("/zookeeper/quota/q/zookeeper_stats"))
    a.call("delete", DELETE, path_version("/q/x"))
    a.call("counted", GET_DATA, path_watch("/zookeeper/quota/q/zookeeper_stats"))
    a.call("beyond the soft limit", SET_DATA, set_data("/q", bytes(200)))


SCENARIOS = [handshake, creates, reads, writes, multis, watches, setwatches, authentication, sessions, unknown, quota]


def run(scenario, class_path):
    server = Server(class_path, "4lw.commands.whitelist=*\n")
    try:
        record = Scenario(server)
        scenario(record)
    finally:
        server.stop()
    head = f"# Captured from {VERSION} by tests/interop/capture_golden.py, scenario `{scenario.__name__}`."
    (GOLDEN / f"{scenario.__name__}.hex").write_text("\n".join([head, *record.lines]) + "\n")
    print(f"{scenario.__name__}: {sum(1 for line in record.lines if not line.startswith('#'))} frames")


# ---- four-letter words

WORDS = ("ruok srvr stat cons conf envi mntr isro wchs wchc wchp dirs dump gtmk stmk hash srst crst").split()


def fourletter(class_path):
    directory = GOLDEN / "fourletter"
    directory.mkdir(parents=True, exist_ok=True)
    server = Server(class_path, "4lw.commands.whitelist=*\n")
    try:
        s = Scenario(server)
        a, b = s.session("a"), s.session("b")
        a.call("", CREATE, create("/a", b"data"))
        a.call("", CREATE, create("/a/e1", flags=EPHEMERAL))
        a.call("", CREATE, create("/a/e2", flags=EPHEMERAL))
        b.call("", GET_DATA, path_watch("/a", True))
        b.call("", GET_CHILDREN, path_watch("/a", True))
        b.call("", ADD_WATCH, path_version("/a/e1", 1))
        for word in WORDS:
            more = i64(10) if word == "stmk" else b""
            (directory / f"{word}.txt").write_bytes(anonymous(server.four_letter(word, more), server))
    finally:
        server.stop()
    server = Server(class_path)
    try:
        (directory / "refused.txt").write_bytes(server.four_letter("ruok"))
    finally:
        server.stop()
    print(f"fourletter: {len(WORDS) + 1} words")


def anonymous(answer, server):
    """Takes out what says more about the machine than about ZooKeeper."""
    answer = answer.replace(str(server.directory).encode(), b"/golden").replace(server.class_path.encode(), b"/golden/zookeeper.jar")
    for key in [b"host.name", b"os.version", b"user.name", b"user.home", b"java.home", b"java.library.path"]:
        answer = re.sub(rb"(?m)^" + re.escape(key) + rb"=.*$", key + b"=golden", answer)
    return answer


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    fetched = subprocess.run([ROOT / ".ci" / "fetch-zookeeper", sys.argv[1]], check=True, capture_output=True, text=True)
    class_path = fetched.stdout.splitlines()[-1]
    wanted = sys.argv[2:]
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for scenario in SCENARIOS:
        if not wanted or scenario.__name__ in wanted:
            run(scenario, class_path)
    if not wanted or "fourletter" in wanted:
        fourletter(class_path)


if __name__ == "__main__":
    main()
