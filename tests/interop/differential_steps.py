"""The sequences that a differential run plays: `tours`, written down, which meet every error and every watch event once,
and `random_steps`, which mix valid and invalid requests over a few paths so that they meet each other. A step is plain
data; the base node's name and zxids are put in when it is sent. Refuses to know any server.

Agreed differences, which no step asks for:

- sasl (102): ZooKeeper answers even where no mechanism is configured, Falconer has no such opcode;
- deleteContainer (20) and createSession (-10) from clients: ZooKeeper obeys, which is a hole;
- createTTL outside a multi with flags of no TTL and a negative time: ZooKeeper checks it, then fails to apply it;
- IPv6 in the scheme `ip`: ZooKeeper 3.9.3 refuses it, its next version and Falconer do not.

Masked in differential_replies.py: the order inside sets (children, ephemerals, identities, the entries that the scheme
`auth` expands to). Paired by hand in differential.py: zxids that only one of them spends, Falconer on a session that comes
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
    None, b"", b"/", b"a", b"//", BASE + b"/", BASE + b"//a", BASE + b"/.", BASE + b"/..", BASE + b"/./a", BASE + b"/a\0b",
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
BAD_ACLS = [None, [], [(31, "world", "me")], [(31, "nosuch", "x")], [(31, "digest", "x")], [(31, None, "x")], [(31, "ip", "1.2.3")],
            [(31, "world", None)], [(31, "digest", None)], [(31, "", "")], [(31, "super", "")], [(31, "ip", "1.2.3.4/33")]]  # fmt: skip
CREDENTIALS = [b"user:secret", b"other:secret", b"nocolon", b"", b"super:secret", b"super:wrong", None, b"\xff:\xfe"]
UNKNOWN_OPCODES = [0, 10, CHECK, 23, 99, 108, 1000, -1, -12, 2**31 - 1, -(2**31)]
FLAGS = [0, 0, 0, 0, EPHEMERAL, EPHEMERAL, SEQUENTIAL, 3, CONTAINER, TTL, 6, 7, -1, 99]
TTLS = [1_000_000, 0, -1, 0xFFFFFFFFFF, 0xFFFFFFFFFF + 1, 2**63 - 1]
VERSIONS = [-1, -1, -1, 0, 0, 1, 2, 7, -2, 2**31 - 1, -(2**31)]


@dataclass
class Step:
    """One request of one session. `inner` are the opcodes inside a multi, `watch` is what it registers, `caught` the list
    of setWatches that is to bring an event at once."""

    slot: int
    op: object
    record: bytes = b""
    note: str = ""
    xid: int = 0
    inner: tuple = ()
    watch: tuple = None
    caught: str = None
    index: int = 0

    def closes(self, err):
        """Whether the server ends the connection after an answer with this code."""
        return self.op == CLOSE_SESSION or err in (AUTH_FAILED, UNIMPLEMENTED)


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

    def acl(self):
        roll = self.random.random()
        return OPEN if roll < 0.7 else self.random.choice(GOOD_ACLS if roll < 0.9 else BAD_ACLS)

    def version(self):
        return self.random.choice(VERSIONS)

    def step(self, slot):
        makers, weights = zip(*WEIGHTS)
        step = self.random.choices(makers, weights)[0](self)
        step.slot = slot
        if step.record and self.random.random() < 0.02:
            step.record = step.record[: self.random.randrange(len(step.record))]
            step.note += f" cut to {len(step.record)} bytes"
            step.watch, step.inner = None, ()
        return step

    def create_parts(self):
        """An opcode, its record and a note."""
        op = self.random.choice([CREATE, CREATE, CREATE2, CREATE_CONTAINER, CREATE_TTL])
        usual = {CREATE_CONTAINER: CONTAINER, CREATE_TTL: self.random.choice([TTL, 6])}
        flags = usual[op] if op in usual and self.random.random() < 0.8 else self.random.choice(FLAGS)
        path, data, acl = self.path(), self.data(), self.acl()
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
        return Step(0, op, path_watch(path, watch), show(f"read[{op}]", path, watch), watch=(kind, path) if watch else None)

    def path_only(self):
        op, path = self.random.choice([GET_ACL, GET_ACL, SYNC, GET_EPHEMERALS, GET_ALL_CHILDREN_NUMBER]), self.path()
        return Step(0, op, string(path), show(f"path[{op}]", path))

    def add_watch(self):
        path, mode = self.path(), self.random.choice([0, 0, 1, 1, 2, -1])
        kind = {0: "persistent", 1: "recursive"}.get(mode)
        return Step(0, ADD_WATCH, path_version(path, mode), show("addWatch", path, mode), watch=(kind, path) if kind else None)

    def about_watches(self):
        op, path, kind = self.random.choice([CHECK_WATCHES, REMOVE_WATCHES]), self.path(), self.random.choice([0, 1, 2, 3, 4, 5, 6, -1])
        return Step(0, op, path_version(path, kind), show(f"watches[{op}]", path, kind))

    def set_watches(self):
        op = self.random.choice([SET_WATCHES, SET_WATCHES2])
        lists = [[self.path() or b"" for _ in range(self.random.choice([0, 0, 1, 2]))] for _ in range(3 if op == SET_WATCHES else 5)]
        zxid = zxid_mark(self.random.randrange(self.index)) if self.index and self.random.random() < 0.8 else i64(self.random.choice([0, -1, 2**62]))
        record = set_watches_record(0, *lists)[8:]
        return Step(0, op, zxid + record, show(f"setWatches[{op}]", zxid, *lists), xid=-8)

    def multi(self):
        makers = [Maker.create_parts, Maker.create_parts, Maker.delete_parts, Maker.set_data_parts, Maker.check_parts]
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
            parts.append(self.random.choice([self.check_parts(), self.create_parts(), (EXISTS, path_watch(BASE), "exists")]))
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
        return Step(0, op, record, show(f"noise[{op}]", record))


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


def create_step(slot, path, op=CREATE, flags=0, acl=OPEN, ttl_ms=None):
    record = create_record(BASE + path, b"", acl, flags) + (b"" if ttl_ms is None else i64(ttl_ms))
    return Step(slot, op, record)


def watch_tours():
    """Every kind of watch with every event, one node each. Session 1 watches, session 0 acts."""
    change = lambda path: Step(0, SET_DATA, set_data_record(path, b"new"))  # noqa: E731
    create = lambda path: Step(0, CREATE, create_record(path))  # noqa: E731
    delete = lambda path: Step(0, DELETE, path_version(path))  # noqa: E731
    watch = lambda kind, op, path: Step(1, op, path_watch(path, True), watch=(kind, path))  # noqa: E731
    steps = []
    for at, (kind, op) in enumerate([("data", GET_DATA), ("exist", EXISTS), ("child", GET_CHILDREN), ("child", GET_CHILDREN2)]):
        path = BASE + b"/w%d" % at
        steps += [watch(kind, op, path), create(path), watch(kind, op, path), change(path), watch(kind, op, path), create(path + b"/c")]
        steps += [delete(path + b"/c"), watch(kind, op, path), delete(path)]
    for mode, kind in enumerate(["persistent", "recursive"]):
        path = BASE + b"/p%d" % mode
        steps += [Step(1, ADD_WATCH, path_version(path, mode), watch=(kind, path)), create(path), change(path), create(path + b"/c")]
        steps += [change(path + b"/c"), delete(path + b"/c"), delete(path)]
    return steps + caught_up(create, change, delete)


def caught_up(create, change, delete):
    """setWatches that finds each thing changed already."""
    path, gone = BASE + b"/s", BASE + b"/gone"
    steps = [create(path), change(path), create(path + b"/c")]
    for op in (SET_WATCHES, SET_WATCHES2):
        more = ([], []) if op == SET_WATCHES2 else ()
        for kind, lists in (("data", ([path, gone], [], [])), ("exist", ([], [path], [])), ("child", ([], [], [path, gone]))):
            steps.append(Step(2, op, set_watches_record(0, *lists, *more), xid=-8, caught=kind))
    return steps


def error_tour():
    """Every error of every opcode once. Session 3 owns what the others may not touch."""
    ours = BASE + b"/locked"
    steps = [Step(3, AUTH, auth_record("digest", b"owner:x"), xid=-4), create_step(3, b"/locked", acl=MINE)]
    steps += [create_step(3, b"/locked/child", acl=MINE), create_step(3, b"/e", flags=EPHEMERAL), create_step(0, b"/full")]
    steps += [create_step(0, b"/full/child"), create_step(0, b"/free")]
    free, none, full = BASE + b"/free", BASE + b"/none", BASE + b"/full"
    creates = []
    for op, flags, more in ((CREATE, 0, b""), (CREATE2, 0, b""), (CREATE_CONTAINER, CONTAINER, b""), (CREATE_TTL, TTL, i64(10**6))):
        for path in (BASE + b"/new%d" % op, BASE + b"/.", none + b"/x", ours + b"/x", BASE + b"/e/x", full):
            creates.append((op, create_record(path, b"", OPEN, flags) + more))
        creates.append((op, create_record(free + b"/x", b"", [], flags) + more))
    changes = [(DELETE, path_version(path, version)) for path, version in ((b"/", -1), (none, -1), (ours + b"/child", -1), (free, 7), (full, -1))]
    for path, version in ((b"bad", -1), (none, -1), (ours, -1), (free, 7), (free, 0)):
        changes += [(SET_DATA, set_data_record(path, b"", version)), (CHECK, path_version(path, version))]
    for op, record in creates + changes:
        end = [] if op == DELETE else [(DELETE, path_version(none))]
        steps += [Step(0, MULTI, multi_record((op, record), *end), inner=(op, *(kind for kind, _ in end)))]
        steps += [Step(0, MULTI, multi_record((CHECK, path_version(none)), (op, record)), inner=(CHECK, op))]
    # Alone and in a multi that succeeds, which leaves the node for nobody.
    steps += [Step(0, op, record) for op, record in creates + changes if op != CHECK]
    steps += [Step(0, MULTI, multi_record((DELETE, record), (op, again)), inner=(DELETE, op)) for op, again, record in renewed(creates)]
    steps += [Step(0, MULTI, multi_record((CHECK, path_version(free)), (SET_DATA, set_data_record(free, b""))), inner=(CHECK, SET_DATA))]
    steps += reads_and_lists(free, none, ours) + refusals(free)
    return steps + [Step(0, DELETE, path_version(free)), Step(0, CLOSE_SESSION), Step(1, CHECK, path_version(free)), Step(1, 99)]


def renewed(creates):
    """(opcode, record, record of the delete before) of those creates that succeed."""
    return [(op, record, path_version(BASE + b"/new%d" % op)) for op, record in creates if b"/new" in record]


def reads_and_lists(free, none, locked):
    steps = []
    for path in (free, none, locked):
        steps += [Step(1, op, path_watch(path)) for op in (EXISTS, GET_DATA, GET_CHILDREN, GET_CHILDREN2)]
        steps += [Step(1, op, string(path)) for op in (GET_ACL, GET_ALL_CHILDREN_NUMBER, GET_EPHEMERALS, SYNC)]
        steps += [Step(1, MULTI_READ, multi_record((op, path_watch(path))), inner=(op,)) for op in (GET_DATA, GET_CHILDREN)]
        steps += [Step(1, SET_ACL, set_acl_record(path, OPEN))]
    steps += [Step(1, EXISTS, path_watch(b"/\0")), Step(1, SET_ACL, set_acl_record(free, [])), Step(1, SET_ACL, set_acl_record(b"bad", OPEN))]
    steps += [Step(1, SET_ACL, set_acl_record(free, OPEN, 9)), Step(1, WHO_AM_I), Step(1, PING, xid=-2), Step(1, SET_WATCHES, set_watches_record(0), xid=-8)]
    steps += [Step(1, SET_WATCHES2, set_watches_record(0, [], [], [], [], []), xid=-8)]
    steps += [Step(1, RECONFIG, string(None) + string("1") + string(None) + i64(-1)), Step(1, AUTH, auth_record("digest", b"super:secret"), xid=-4)]
    for op in (CHECK_WATCHES, REMOVE_WATCHES):
        steps += [Step(2, ADD_WATCH, path_version(free, 0)), Step(2, op, path_version(free, 3)), Step(2, op, path_version(none, 3)), Step(2, op, path_version(free, 9))]
    return [*steps, Step(2, ADD_WATCH, path_version(free, 2))]


def refusals(free):
    """Records that end too early, and credentials nobody knows."""
    ops = [CREATE, CREATE2, CREATE_CONTAINER, CREATE_TTL, DELETE, EXISTS, GET_DATA, SET_DATA, GET_ACL, SET_ACL, GET_CHILDREN, GET_CHILDREN2]
    ops += [SYNC, MULTI, MULTI_READ, CHECK_WATCHES, REMOVE_WATCHES, SET_WATCHES, SET_WATCHES2, GET_ALL_CHILDREN_NUMBER, ADD_WATCH]
    return [Step(2, op, string(free)[:6]) for op in ops] + [Step(2, AUTH, auth_record("nosuch", b""), xid=-4)]


def tours():
    """The sequences written down."""
    return [numbered(error_tour()), numbered(watch_tours())]
