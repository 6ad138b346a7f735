"""The ZooKeeper client protocol by hand, over a plain socket: frames, records, handshake, requests. For tests that must
say exactly which bytes go out and see exactly which come back. Written from the protocol, not from any client.
Refuses to be clever: no retries, no threads, no reconnecting.
"""

import socket
import struct
import time
from collections import namedtuple

CREATE, DELETE, EXISTS, GET_DATA, SET_DATA, GET_ACL, SET_ACL, GET_CHILDREN, SYNC = 1, 2, 3, 4, 5, 6, 7, 8, 9
PING, GET_CHILDREN2, CHECK, MULTI, CREATE2, RECONFIG = 11, 12, 13, 14, 15, 16
CREATE_CONTAINER, DELETE_CONTAINER, CREATE_TTL = 19, 20, 21
CHECK_WATCHES, REMOVE_WATCHES, MULTI_READ = 17, 18, 22
AUTH, SET_WATCHES, SASL, GET_EPHEMERALS, GET_ALL_CHILDREN_NUMBER = 100, 101, 102, 103, 104
SET_WATCHES2, ADD_WATCH, WHO_AM_I, CREATE_SESSION, CLOSE_SESSION = 105, 106, 107, -10, -11

OK, SYSTEM_ERROR, RUNTIME_INCONSISTENCY, MARSHALLING, UNIMPLEMENTED, BAD_ARGUMENTS = 0, -1, -2, -5, -6, -8
NO_NODE, NO_AUTH, BAD_VERSION, NO_CHILDREN_FOR_EPHEMERALS = -101, -102, -103, -108
NODE_EXISTS, NOT_EMPTY, SESSION_EXPIRED, INVALID_ACL, AUTH_FAILED, RECONFIG_DISABLED = -110, -111, -112, -114, -115, -123
NO_WATCHER = -121

CREATED, DELETED, DATA_CHANGED, CHILDREN_CHANGED = 1, 2, 3, 4
EPHEMERAL, SEQUENTIAL, CONTAINER, TTL = 1, 2, 4, 5

OPEN = [(31, "world", "anyone")]
FRAME_MAX = 0xFFFFF

Stat = namedtuple(
    "Stat",
    "czxid mzxid ctime mtime version cversion aversion ephemeral_owner data_length num_children pzxid",
)
Event = namedtuple("Event", "kind state path zxid")
Handshake = namedtuple("Handshake", "protocol timeout_ms session password read_only")


class Closed(Exception):
    """The server has closed the connection."""


class Refused(Exception):
    """A reply with an error code."""

    def __init__(self, code):
        super().__init__(f"error {code}")
        self.code = code


def i32(value):
    return struct.pack(">i", value)


def i64(value):
    return struct.pack(">q", value)


def boolean(value):
    return b"\1" if value else b"\0"


def buffer(value):
    return i32(-1) if value is None else i32(len(value)) + value


def string(value):
    return buffer(value if value is None or isinstance(value, bytes) else value.encode())


def vector(items):
    return i32(-1) if items is None else i32(len(items)) + b"".join(items)


def acl_list(acl):
    return vector(None if acl is None else [i32(perms) + string(scheme) + string(id) for perms, scheme, id in acl])


def create_record(path, data=b"", acl=OPEN, flags=0):
    return string(path) + buffer(data) + acl_list(acl) + i32(flags)


def ttl_record(path, ttl_ms, flags=TTL, data=b"", acl=OPEN):
    return create_record(path, data, acl, flags) + i64(ttl_ms)


def path_version(path, version=-1):
    """The record of delete and check."""
    return string(path) + i32(version)


def path_watch(path, watch=False):
    """The record of exists, getData and both getChildren."""
    return string(path) + boolean(watch)


def set_data_record(path, data, version=-1):
    return string(path) + buffer(data) + i32(version)


def set_acl_record(path, acl, version=-1):
    return string(path) + acl_list(acl) + i32(version)


def auth_record(scheme, credentials):
    return i32(0) + string(scheme) + buffer(credentials)


def set_watches_record(relative_zxid, data=(), exist=(), child=(), *persistent):
    lists = (data, exist, child, *persistent)
    return i64(relative_zxid) + b"".join(vector([string(path) for path in paths]) for paths in lists)


def multi_record(*ops):
    """`ops` are (opcode, record)."""
    return b"".join(i32(op) + boolean(False) + i32(-1) + record for op, record in ops) + multi_end()


def multi_end():
    return i32(-1) + boolean(True) + i32(-1)


class Reader:
    """Reads jute fields from the front of a body."""

    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, count):
        assert self.at + count <= len(self.data), f"body too short: {self.data!r}"
        self.at += count
        return self.data[self.at - count : self.at]

    def i32(self):
        return struct.unpack(">i", self.take(4))[0]

    def i64(self):
        return struct.unpack(">q", self.take(8))[0]

    def boolean(self):
        return self.take(1) != b"\0"

    def buffer(self):
        length = self.i32()
        return None if length == -1 else self.take(length)

    def string(self):
        value = self.buffer()
        return None if value is None else value.decode()

    def strings(self):
        return [self.string() for _ in range(self.i32())]

    def stat(self):
        return Stat(*struct.unpack(">qqqqiiiqiiq", self.take(68)))

    def acl(self):
        return [(self.i32(), self.string(), self.string()) for _ in range(self.i32())]

    def end(self):
        """Nothing may be left: some clients refuse a reply that is longer than its record."""
        assert self.at == len(self.data), f"{len(self.data) - self.at} bytes too many: {self.data!r}"


class Reply(namedtuple("Reply", "xid zxid err body")):
    """One frame after the handshake; `body` is a Reader."""


class Connection:
    """One socket. Events that arrive while a reply is awaited are kept in `events`."""

    def __init__(self, port, receive_bytes=None):
        self.sock = socket.socket()
        if receive_bytes:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.sock.settimeout(10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect(("127.0.0.1", port))
        self.input = b""
        self.events = []
        self.xid = 0
        self.hello = None

    # frames

    def send_raw(self, data):
        self.sock.sendall(data)

    def send_frame(self, payload):
        self.sock.sendall(i32(len(payload)) + payload)

    def receive(self, count):
        while len(self.input) < count:
            try:
                chunk = self.sock.recv(262144)
            except ConnectionError as error:
                raise Closed(str(error)) from None
            if not chunk:
                raise Closed(f"end of stream after {self.input!r}")
            self.input += chunk
        data, self.input = self.input[:count], self.input[count:]
        return data

    def receive_frame(self):
        return self.receive(struct.unpack(">i", self.receive(4))[0])

    def is_closed(self, within_s=5):
        """Whether the server closes the connection within this time without sending another byte."""
        self.sock.settimeout(within_s)
        try:
            frame = self.receive(1)
        except Closed:
            return True
        except TimeoutError:
            return False
        finally:
            self.sock.settimeout(10)
        raise AssertionError(f"not closed but {frame + self.input!r}")

    def close(self):
        self.sock.close()

    # handshake

    @staticmethod
    def handshake_record(timeout_ms=10000, session=0, password=bytes(16), last_zxid=0, read_only=False, protocol=0):
        """44 bytes, or 45 with the byte `read_only` unless that is None."""
        record = i32(protocol) + i64(last_zxid) + i32(timeout_ms) + i64(session) + buffer(password)
        return record if read_only is None else record + boolean(read_only)

    def read_handshake(self):
        frame = self.receive_frame()
        reader = Reader(frame)
        fields = (reader.i32(), reader.i32(), reader.i64(), reader.buffer())
        read_only = reader.boolean() if reader.at < len(frame) else None
        reader.end()
        self.hello = Handshake(*fields, read_only)
        return self.hello

    def handshake(self, **fields):
        self.send_frame(self.handshake_record(**fields))
        return self.read_handshake()

    # requests

    def send(self, op, record=b"", xid=None):
        """Sends a request without waiting; returns its xid."""
        if xid is None:
            self.xid += 1
            xid = self.xid
        self.send_frame(i32(xid) + i32(op) + record)
        return xid

    def receive_any(self):
        """The next frame: an Event or a Reply."""
        reader = Reader(self.receive_frame())
        reply = Reply(reader.i32(), reader.i64(), reader.i32(), reader)
        if reply.xid != -1:
            return reply
        event = Event(reader.i32(), reader.i32(), reader.string(), reply.zxid)
        reader.end()
        assert reply.err == 0
        return event

    def receive_reply(self):
        while True:
            frame = self.receive_any()
            if isinstance(frame, Reply):
                return frame
            self.events.append(frame)

    def call(self, op, record=b"", xid=None):
        """Sends a request and waits for its reply."""
        xid = self.send(op, record, xid)
        reply = self.receive_reply()
        assert reply.xid == xid, f"reply to {reply.xid} while waiting for {xid}"
        if reply.err != 0:
            reply.body.end()
        return reply

    def code(self, op, record=b""):
        return self.call(op, record).err

    def ok(self, op, record=b""):
        """The body of a reply that must not be an error."""
        reply = self.call(op, record)
        if reply.err != 0:
            raise Refused(reply.err)
        return reply.body

    def next_event(self):
        return self.events.pop(0) if self.events else self.receive_any()

    def take_events(self):
        """All events that have arrived up to now: a ping fetches those under way."""
        self.call(PING, xid=-2)
        events, self.events = self.events, []
        return [(event.kind, event.path) for event in events]

    # the calls that most tests need

    def create(self, path, data=b"", flags=0, acl=OPEN):
        body = self.ok(CREATE, create_record(path, data, acl, flags))
        made = body.string()
        body.end()
        return made

    def delete(self, path, version=-1):
        self.ok(DELETE, path_version(path, version)).end()

    def set_data(self, path, data, version=-1):
        body = self.ok(SET_DATA, set_data_record(path, data, version))
        stat = body.stat()
        body.end()
        return stat

    def get_data(self, path, watch=False):
        body = self.ok(GET_DATA, path_watch(path, watch))
        found = body.buffer(), body.stat()
        body.end()
        return found

    def exists(self, path, watch=False):
        """The Stat, or None."""
        reply = self.call(EXISTS, path_watch(path, watch))
        if reply.err == NO_NODE:
            return None
        assert reply.err == 0, reply.err
        stat = reply.body.stat()
        reply.body.end()
        return stat

    def children(self, path, watch=False):
        """The names, sorted, and the Stat."""
        body = self.ok(GET_CHILDREN2, path_watch(path, watch))
        found = sorted(body.strings()), body.stat()
        body.end()
        return found

    def auth(self, scheme, credentials):
        reply = self.call(AUTH, auth_record(scheme, credentials), xid=-4)
        reply.body.end()
        return reply

    def multi(self, *ops):
        """The results: one per op, as parsed by `multi_results`."""
        reply = self.call(MULTI, multi_record(*ops))
        assert reply.err == 0, reply.err
        return multi_results(reply.body)


def multi_results(body):
    """[(type, err, value)]: value is a path, (path, Stat), a Stat, an error code or None, as the type has it."""
    results = []
    while True:
        kind, done, err = body.i32(), body.boolean(), body.i32()
        if done:
            assert (kind, err) == (-1, -1)
            body.end()
            return results
        read = {CREATE: body.string, SET_DATA: body.stat, -1: body.i32, CREATE2: lambda: (body.string(), body.stat())}
        results.append((kind, err, read[kind]() if kind in read else None))


def open_session(port, **fields):
    """A connection with a session."""
    connection = Connection(port)
    connection.handshake(**fields)
    assert connection.hello.session != 0
    return connection


def eventually(condition, within_s=10, every_s=0.02):
    """Waits until `condition()` is true and returns what it returned; fails after `within_s`."""
    deadline = time.monotonic() + within_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(every_s)
    return result
