"""The steps of a differential run and, with `random_steps`, sequences of them that mix valid and invalid requests over a
few paths so that they meet each other. A step is plain data; the base node's name and zxids are put in when it is sent.
Refuses to know any server.

Agreed differences, which no step asks for:

- sasl (102): ZooKeeper answers even where no mechanism is configured, Falconer has no such opcode;
- deleteContainer (20) and createSession (-10) from clients: ZooKeeper obeys, which is a hole;
- createTTL outside a multi with flags of no TTL and a negative time: ZooKeeper checks it, then fails to apply it;
- null where a path belongs, in the lists of setWatches, or inside the ACL of a multi: Falconer cannot read such a request,
  ZooKeeper answers by where it trips over the null: after half the work, or after watching nothing at all with addWatch;
- IPv6 in the scheme `ip`: ZooKeeper 3.9.3 refuses it, its next version and Falconer do not;
- several creates in one multi that only together go beyond a hard quota: ZooKeeper does not notice, Falconer refuses;
- opcodes from 500 on, and exists inside a multiRead: extensions.

Masked in differential_replies.py: the order inside sets (children, ephemerals, identities, the entries that the scheme
`auth` expands to), and how characters beyond the BMP are repeated (ZooKeeper: CESU-8, which its own client cannot read;
Falconer: UTF-8). Paired by hand in differential.py: zxids that only one of them spends, Falconer on a session that comes
back, ZooKeeper on some of the requests that it answers with MARSHALLINGERROR.
"""

from dataclasses import dataclass

import wire
from wire import *  # noqa: F403

BASE = b"/d00000"
SLOTS = 4
DROP = "drop"
PATHS = [b"", b"/a", b"/a/b", b"/a/b/c", b"/b", b"/e", b"/n", b"/x/y"]
BAD_PATHS = [
    b"", b"/", b"a", b"//", BASE + b"/", BASE + b"//a", BASE + b"/.", BASE + b"/..", BASE + b"/./a", BASE + b"/a\0b",
    BASE + b"/\x01", BASE + b"/\x7f", BASE + b"/\xc2\x9f", BASE + b"/\xee\x80\x80", BASE + b"/\xef\xbf\xb0", BASE + b"/\xff",
    BASE + b"/\xf0\x9f\x98\x80", BASE + b"/a/", BASE + b"/n\0", b"/zookeeper", b"/zookeeper/quota", b"/zookeeper/config", b"\0",
]  # fmt: skip
ODD_PATHS = [BASE + b"/\xc3\xa9", BASE + b"/ ", BASE + b"/...", BASE + b"/\xef\xa4\x80", BASE + b"/a.b"]
MINE = [(31, "auth", "")]
READ_ONLY = [(1, "world", "anyone")]
HIDDEN = [(30, "world", "anyone")]
USER = [(31, "digest", "user:x")]
GOOD_ACLS = [MINE, READ_ONLY, HIDDEN, USER, [(31, "ip", "127.0.0.1")], [(31, "ip", "10.0.0.0/8")], [(17, "world", "anyone"), *MINE],
             [(31, "world", "anyone")] * 2, [(99, "world", "anyone")], [(0, "world", "anyone")], [(8, "world", "anyone"), (4, "digest", "a:b")]]  # fmt: skip
NULL_ACLS = 4
BAD_ACLS = [None, [(31, None, "x")], [(31, "world", None)], [(31, "digest", None)], [], [(31, "world", "me")], [(31, "nosuch", "x")],
            [(31, "digest", "x")], [(31, "ip", "1.2.3")], [(31, "", "")], [(31, "super", "")], [(31, "ip", "1.2.3.4/33")]]  # fmt: skip
CREDENTIALS = [b"user:secret", b"other:secret", b"nocolon", b"", b"super:secret", b"super:wrong", None, b"\xff:\xfe"]
UNKNOWN_OPCODES = [0, 10, CHECK, 23, 99, 108, 499, -1, -12, -(2**31)]
# Known, and still answered with UNIMPLEMENTED where they, or what their flags ask for, are switched off.
SWITCHED = {CREATE, CREATE2, CREATE_CONTAINER, CREATE_TTL, RECONFIG}
# What is reserved for answers that nobody asked for, pings, auth packets and setWatches, and the ends of the range.
ODD_XIDS = [-2, -4, -8, -3, 2**31 - 1, -(2**31)]
FLAGS = [0, 0, 0, 0, EPHEMERAL, EPHEMERAL, SEQUENTIAL, 3, CONTAINER, TTL, 6, 7, -1, 99]
TTLS = [1_000_000, 0, -1, 0xFFFFFFFFFF, 0xFFFFFFFFFF + 1, 2**63 - 1]
VERSIONS = [-1, -1, -1, 0, 0, 1, 2, 7, -2, 2**31 - 1, -(2**31)]


@dataclass
class Step:
    """One request of one session. `inner` are the opcodes inside a multi, `watches` is what it registers, as pairs of kind
    and path, `caught` the list of setWatches that is to bring an event at once."""

    slot: int
    op: object
    record: bytes = b""
    note: str = ""
    xid: int = 0
    inner: tuple = ()
    watches: tuple = ()
    caught: str = None
    index: int = 0

    def closes(self, err):
        """Whether the server ends the connection after an answer with this code."""
        return self.op == CLOSE_SESSION or err == AUTH_FAILED or (err == UNIMPLEMENTED and self.op not in SWITCHED)


def numbered(steps):
    """The steps with their indexes and, where they have none of their own, xids."""
    for index, step in enumerate(steps):
        step.index = index
        step.xid = step.xid or index + 1
        if not step.note:
            step.note = f"opcode {step.op} {step.record!r}"
    return steps


def zxid_mark(index):
    """Eight bytes that become the zxid last seen at that step."""
    return b"\x01zxid%03d" % index


def show(name, *values):
    return f"{name}({', '.join(repr(value) for value in values)})"


class Maker:
    """Makes steps out of a source of randomness."""

    def __init__(self, random):
        self.random = random
        self.index = 0

    def path(self):
        roll = self.random.random()
        if roll < 0.84:
            return BASE + self.random.choice(PATHS)
        return self.random.choice(BAD_PATHS if roll < 0.96 else ODD_PATHS)

    def data(self):
        return self.random.choice([b"", None, b"data", b"\0\xff", b"x" * 300, b"y" * 5000])

    def acl(self, in_multi=False):
        roll = self.random.random()
        bad = BAD_ACLS[NULL_ACLS:] if in_multi else BAD_ACLS
        return OPEN if roll < 0.7 else self.random.choice(GOOD_ACLS if roll < 0.9 else bad)

    def version(self):
        return self.random.choice(VERSIONS)

    def step(self, slot):
        makers, weights = zip(*WEIGHTS)
        step = self.random.choices(makers, weights)[0](self)
        step.slot = slot
        if step.record and self.random.random() < 0.02:
            step.record = step.record[: self.random.randrange(len(step.record))]
            step.note += f" cut to {len(step.record)} bytes"
            step.watches, step.inner = (), ()
        if not step.xid and self.random.random() < 0.03:
            step.xid = self.random.choice(ODD_XIDS)
            step.note += f" with xid {step.xid}"
        return step

    def create_parts(self, in_multi=False):
        """An opcode, its record and a note."""
        op = self.random.choice([CREATE, CREATE, CREATE2, CREATE_CONTAINER, CREATE_TTL])
        usual = {CREATE_CONTAINER: CONTAINER, CREATE_TTL: self.random.choice([TTL, 6])}
        flags = usual[op] if op in usual and self.random.random() < 0.8 else self.random.choice(FLAGS)
        path, data, acl = self.path(), self.data(), self.acl(in_multi)
        record, ttl = create_record(path, data, acl, flags), None
        if op == CREATE_TTL:
            usual = flags not in (TTL, 6) or self.random.random() < 0.6
            ttl = TTLS[0] if usual else self.random.choice(TTLS)
            record += i64(ttl)
        return op, record, show(f"create[{op}]", path, len(data or b""), acl, flags, ttl)

    def delete_parts(self):
        path, version = self.path(), self.version()
        return DELETE, path_version(path, version), show("delete", path, version)

    def set_data_parts(self):
        path, data, version = self.path(), self.data(), self.version()
        return SET_DATA, set_data_record(path, data, version), show("setData", path, len(data or b""), version)

    def check_parts(self):
        path, version = self.path(), self.version()
        return CHECK, path_version(path, version), show("check", path, version)

    def create(self):
        return Step(0, *self.create_parts())

    def delete(self):
        return Step(0, *self.delete_parts())

    def set_data(self):
        return Step(0, *self.set_data_parts())

    def set_acl(self):
        path, acl, version = self.path(), self.acl(), self.version()
        return Step(0, SET_ACL, set_acl_record(path, acl, version), show("setACL", path, acl, version))

    def read(self):
        op, path, watch = self.random.choice([EXISTS, GET_DATA, GET_CHILDREN, GET_CHILDREN2]), self.path(), self.random.random() < 0.5
        kind = {EXISTS: "exist", GET_DATA: "data"}.get(op, "child")
        return Step(0, op, path_watch(path, watch), show(f"read[{op}]", path, watch), watches=((kind, path),) if watch else ())

    def path_only(self):
        op, path = self.random.choice([GET_ACL, GET_ACL, SYNC, GET_EPHEMERALS, GET_ALL_CHILDREN_NUMBER]), self.path()
        return Step(0, op, string(path), show(f"path[{op}]", path))

    def add_watch(self):
        path, mode = self.path(), self.random.choice([0, 0, 1, 1, 2, -1])
        kind = {0: "persistent", 1: "recursive"}.get(mode)
        return Step(0, ADD_WATCH, path_version(path, mode), show("addWatch", path, mode), watches=((kind, path),) if kind else ())

    def about_watches(self):
        op, path, kind = self.random.choice([CHECK_WATCHES, REMOVE_WATCHES]), self.path(), self.random.choice([0, 1, 2, 3, 4, 5, 6, -1])
        return Step(0, op, path_version(path, kind), show(f"watches[{op}]", path, kind))

    def set_watches(self):
        op = self.random.choice([SET_WATCHES, SET_WATCHES2])
        lists = [[self.path() or b"" for _ in range(self.random.choice([0, 0, 1, 2]))] for _ in range(3 if op == SET_WATCHES else 5)]
        zxid = zxid_mark(self.random.randrange(self.index)) if self.index and self.random.random() < 0.8 else i64(self.random.choice([0, -1, 2**62]))
        record = set_watches_record(0, *lists)[8:]
        # Which of these are registered is up to the server, and so is what they bring: not for the coverage to count.
        unsure = tuple(("? recursive" if at == 4 else "?", path) for at, paths in enumerate(lists) for path in paths)
        return Step(0, op, zxid + record, show(f"setWatches[{op}]", zxid, *lists), xid=-8, watches=unsure)

    def multi(self):
        create = lambda maker: maker.create_parts(in_multi=True)  # noqa: E731
        makers = [create, create, Maker.delete_parts, Maker.set_data_parts, Maker.check_parts]
        parts = [self.random.choice(makers)(self) for _ in range(self.random.choice([0, 1, 2, 2, 3, 5]))]
        if self.random.random() < 0.05:
            parts.insert(0, (GET_DATA, path_watch(BASE), "getData"))
        if self.random.random() < 0.03:
            parts.append((self.random.choice([MULTI, 99, -1, SET_ACL]), b"", "unknown"))
        return self.joined(MULTI, parts)

    def multi_read(self):
        parts = []
        for _ in range(self.random.choice([0, 1, 2, 3])):
            op, path, watch = self.random.choice([GET_DATA, GET_CHILDREN]), self.path(), self.random.random() < 0.3
            parts.append((op, path_watch(path, watch), show(f"read[{op}]", path, watch)))
        if self.random.random() < 0.1:
            # Not exists: Falconer takes it here, for Keeper's clients.
            strange = (GET_CHILDREN2, path_watch(BASE), "getChildren2")
            parts.append(self.random.choice([self.check_parts(), self.create_parts(in_multi=True), strange]))
        return self.joined(MULTI_READ, parts)

    def joined(self, op, parts):
        record = multi_record(*[(kind, record) for kind, record, _ in parts])
        return Step(0, op, record, show(f"multi[{op}]", [note for _, _, note in parts]), inner=tuple(kind for kind, _, _ in parts))

    def auth(self):
        scheme = self.random.choice(["digest"] * 6 + ["ip", "world", "nosuch", "", None])
        credentials = self.random.choice(CREDENTIALS)
        return Step(0, AUTH, auth_record(scheme, credentials), show("auth", scheme, credentials), xid=-4)

    def plain(self):
        op = self.random.choice([PING, WHO_AM_I, WHO_AM_I])
        return Step(0, op, b"", f"plain[{op}]", xid=self.random.choice([0, -2, 5]))

    def reconfig(self):
        return Step(0, RECONFIG, string(None) + string("1") + string(None) + i64(-1), "reconfig")

    def end(self):
        return self.random.choice(
            [
                Step(0, CLOSE_SESSION, b"", "closeSession"),
                Step(0, DROP, b"", "the connection is dropped and the session comes back"),
                Step(0, self.random.choice(UNKNOWN_OPCODES), b"", "unknown opcode"),
            ]
        )

    def noise(self):
        """A known opcode with bytes that mean nothing to it."""
        op = self.random.choice([CREATE, DELETE, SET_DATA, GET_DATA, SET_ACL, MULTI, MULTI_READ, SET_WATCHES2, GET_CHILDREN2, ADD_WATCH, CREATE_TTL])
        record = self.random.choice([b"", i32(-1), i32(2**31 - 1), i32(-2) + b"/a", string(BASE) + i32(2**31 - 1), self.random.randbytes(20)])
        return Step(0, op, record, show(f"noise[{op}]", record), watches=(("?", BASE),))


WEIGHTS = [
    (Maker.create, 20), (Maker.delete, 10), (Maker.set_data, 10), (Maker.set_acl, 4), (Maker.read, 16), (Maker.path_only, 6),
    (Maker.add_watch, 4), (Maker.about_watches, 4), (Maker.set_watches, 4), (Maker.multi, 12), (Maker.multi_read, 4),
    (Maker.auth, 4), (Maker.plain, 2), (Maker.reconfig, 0.5), (Maker.end, 3), (Maker.noise, 2),
]  # fmt: skip


def random_steps(random, count):
    """A sequence of so many steps."""
    maker, steps = Maker(random), []
    for maker.index in range(count):
        steps.append(maker.step(random.randrange(SLOTS)))
    return numbered(steps)
