"""What a differential run has met: every pair of opcode and error that a standalone server can give, and every kind of
watch with every event it can bring. Refuses to count what it cannot attribute: an event counts for a kind of watch only
where the connection holds no other kind that could have brought it. Kinds that begin with "?" are such others.
"""

import struct
from collections import Counter

import wire
from differential_steps import BASE

NAMES = {
    wire.CREATE: "create",
    wire.DELETE: "delete",
    wire.EXISTS: "exists",
    wire.GET_DATA: "getData",
    wire.SET_DATA: "setData",
    wire.GET_ACL: "getACL",
    wire.SET_ACL: "setACL",
    wire.GET_CHILDREN: "getChildren",
    wire.SYNC: "sync",
    wire.PING: "ping",
    wire.GET_CHILDREN2: "getChildren2",
    wire.CHECK: "check",
    wire.MULTI: "multi",
    wire.CREATE2: "create2",
    wire.RECONFIG: "reconfig",
    wire.CHECK_WATCHES: "checkWatches",
    wire.REMOVE_WATCHES: "removeWatches",
    wire.CREATE_CONTAINER: "createContainer",
    wire.CREATE_TTL: "createTTL",
    wire.MULTI_READ: "multiRead",
    wire.AUTH: "auth",
    wire.SET_WATCHES: "setWatches",
    wire.GET_EPHEMERALS: "getEphemerals",
    wire.GET_ALL_CHILDREN_NUMBER: "getAllChildrenNumber",
    wire.SET_WATCHES2: "setWatches2",
    wire.ADD_WATCH: "addWatch",
    wire.WHO_AM_I: "whoAmI",
    wire.CLOSE_SESSION: "closeSession",
}
_CREATE = [0, -5, -6, -8, -101, -102, -108, -110, -114, -125]
_READ = [0, -5, -101, -102]
_MULTI_CREATE = [0, -2, -8, -101, -102, -108, -110, -114, -125]
# Not here, because a standalone server does not give them: -118 to -120 and reconfig's -8, -13, -14, -102 and -103
# (ensembles, local sessions, read-only mode), -112 (a write that overtakes the end of its session: a race), -127 (throttling).
REQUIRED_PAIRS = {
    "create": _CREATE,
    "create2": _CREATE,
    "createContainer": _CREATE,
    "createTTL": _CREATE,
    "delete": [0, -5, -8, -101, -102, -103, -111],
    "exists": [0, -5, -8, -101, -102],
    "getData": _READ,
    "setData": [0, -5, -8, -101, -102, -103, -125],
    "getACL": _READ,
    "setACL": [0, -5, -8, -101, -102, -103, -114],
    "getChildren": _READ,
    "getChildren2": _READ,
    "sync": [0, -5],
    "ping": [0],
    "check": [-6],
    "multi": [0, -5],
    "multi: create": _MULTI_CREATE,
    "multi: create2": _MULTI_CREATE,
    "multi: createContainer": _MULTI_CREATE,
    "multi: createTTL": [*_MULTI_CREATE, -6],
    "multi: delete": [0, -2, -8, -101, -102, -103, -111],
    "multi: setData": [0, -2, -8, -101, -102, -103, -125],
    "multi: check": [0, -2, -8, -101, -102, -103],
    "multiRead": [0, -5],
    "multiRead: getData": [0, -101, -102],
    "multiRead: getChildren": [0, -101, -102],
    "reconfig": [-6, -123],
    "checkWatches": [0, -5, -121],
    "removeWatches": [0, -5, -121],
    "auth": [0, -115],
    "setWatches": [0, -5],
    "setWatches2": [0, -5],
    "getEphemerals": [0, -5],
    "getAllChildrenNumber": _READ,
    "addWatch": [0, -5],
    "whoAmI": [0],
    "closeSession": [0],
    "unknown": [-6],
}
DATA, EXIST, CHILD, PERSISTENT, RECURSIVE = "data", "exist", "child", "persistent", "recursive"
_ALL = [wire.CREATED, wire.DELETED, wire.DATA_CHANGED, wire.CHILDREN_CHANGED]
# "set": registered by setWatches or setWatches2; "setWatches": what it finds changed already. Only a watch that exists set
# on a node can see it change or go; where setWatches has found a node, it has told so.
REQUIRED_EVENTS = {
    DATA: [wire.DELETED, wire.DATA_CHANGED],
    EXIST: [wire.CREATED, wire.DELETED, wire.DATA_CHANGED],
    CHILD: [wire.DELETED, wire.CHILDREN_CHANGED],
    PERSISTENT: _ALL,
    RECURSIVE: _ALL[:3],
    "set data": [wire.DELETED, wire.DATA_CHANGED],
    "set exist": [wire.CREATED],
    "set child": [wire.DELETED, wire.CHILDREN_CHANGED],
    "set persistent": _ALL,
    "set recursive": _ALL[:3],
    "setWatches data": [wire.DELETED, wire.DATA_CHANGED],
    "setWatches exist": [wire.CREATED],
    "setWatches child": [wire.DELETED, wire.CHILDREN_CHANGED],
}
USED_UP_BY = {DATA: _ALL[:3], EXIST: _ALL[:3], CHILD: [wire.DELETED, wire.CHILDREN_CHANGED]}
EVENT_NAMES = {wire.CREATED: "Created", wire.DELETED: "Deleted", wire.DATA_CHANGED: "DataChanged", wire.CHILDREN_CHANGED: "ChildrenChanged"}


class Coverage:
    """Counts of (name, error) and (kind of watch, event)."""

    def __init__(self):
        self.pairs = Counter()
        self.events = Counter()
        self.watches = {}
        self.step = None

    def asks(self, step):
        self.step = step
        for kind, path in step.watches:
            if kind.startswith("?"):  # what it brings can come before its reply
                self.holds(step.slot, kind, path)

    def forgets(self, slot):
        """The connection of a slot has ended, and its watches with it."""
        self.watches.pop(slot, None)

    def holds(self, slot, kind, path):
        self.watches.setdefault(slot, {}).setdefault(path, set()).add(kind)

    def saw_reply(self, step, frame):
        err = struct.unpack(">i", frame[12:16])[0]
        name = NAMES.get(step.op, "unknown")
        self.pairs[name, err] += 1
        if step.inner and err == 0:
            self.saw_results(name, step, wire.Reader(frame[16:]))
        for kind, path in step.watches:
            if err == 0 or (err == wire.NO_NODE and kind == EXIST):
                self.holds(step.slot, kind, path)

    def saw_results(self, name, step, reader):
        """One pair for each operation inside a multi."""
        for op in step.inner:
            kind, _, err = reader.i32(), reader.boolean(), reader.i32()
            self.pairs[f"{name}: {NAMES[op]}", err] += 1
            if kind == -1:
                reader.i32()
            elif kind in (wire.CREATE, wire.CREATE2):
                reader.buffer()
            if kind == wire.GET_DATA:
                reader.buffer()
            if kind in (wire.CREATE2, wire.SET_DATA, wire.GET_DATA):
                reader.stat()
            if kind == wire.GET_CHILDREN:
                reader.strings()

    def saw_event(self, slot, frame, base):
        reader = wire.Reader(frame[16:])
        event, _, path = reader.i32(), reader.i32(), reader.buffer().replace(base, BASE)
        if self.step.caught and slot == self.step.slot:
            self.events[f"setWatches {self.step.caught}", event] += 1
            return
        held = self.watches.get(slot, {})
        below = lambda at: at and path.startswith(at.rstrip(b"/") + b"/")  # noqa: E731
        above = {kind for at, kinds in held.items() if below(at) for kind in kinds if kind.endswith(RECURSIVE)}
        kinds = held.get(path, set()) | above
        if len(kinds) == 1 and not next(iter(kinds)).startswith("?"):
            self.events[next(iter(kinds)), event] += 1
        held.get(path, set()).difference_update({kind for kind in kinds if event in USED_UP_BY.get(kind.removeprefix("set "), ())})

    def missing(self):
        """What should have been met and was not."""
        pairs = [f"{name} {err}" for name, errs in REQUIRED_PAIRS.items() for err in errs if not self.pairs[name, err]]
        events = [f"{kind} {EVENT_NAMES[e]}" for kind, es in REQUIRED_EVENTS.items() for e in es if not self.events[kind, e]]
        return pairs + events

    def table(self):
        """The counts, one line for each name."""
        lines = []
        for counts, show in ((self.pairs, str), (self.events, lambda event: EVENT_NAMES.get(event, str(event)))):
            for name in sorted({name for name, _ in counts}):
                found = sorted((what, n) for (at, what), n in counts.items() if at == name)
                lines.append(f"{name:24} " + "  ".join(f"{show(what)}:{n}" for what, n in found))
        return "\n".join(lines)
