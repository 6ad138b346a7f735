"""The sequences of a differential run that are written down: they meet every error of every opcode and every event of every
kind of watch once, whatever chance does. Refuses to know any server.
"""

from differential_steps import BASE, MINE, Step, numbered
from wire import *  # noqa: F403

# In the order of setWatches2's lists.
KINDS = ["data", "exist", "child", "persistent", "recursive"]

def create_step(slot, path, op=CREATE, flags=0, acl=OPEN, ttl_ms=None):
    record = create_record(BASE + path, b"", acl, flags) + (b"" if ttl_ms is None else i64(ttl_ms))
    return Step(slot, op, record)


def watch_tours():
    """Every kind of watch with every event, one node each. Session 1 watches, session 0 acts."""
    change = lambda path: Step(0, SET_DATA, set_data_record(path, b"new"))  # noqa: E731
    create = lambda path: Step(0, CREATE, create_record(path))  # noqa: E731
    delete = lambda path: Step(0, DELETE, path_version(path))  # noqa: E731
    watch = lambda kind, op, path: Step(1, op, path_watch(path, True), watches=((kind, path),))  # noqa: E731
    steps = []
    for at, (kind, op) in enumerate([("data", GET_DATA), ("exist", EXISTS), ("child", GET_CHILDREN), ("child", GET_CHILDREN2)]):
        path = BASE + b"/w%d" % at
        steps += [watch(kind, op, path), create(path), watch(kind, op, path), change(path), watch(kind, op, path), create(path + b"/c")]
        steps += [delete(path + b"/c"), watch(kind, op, path), delete(path)]
    for mode, kind in enumerate(["persistent", "recursive"]):
        path = BASE + b"/p%d" % mode
        steps += [Step(1, ADD_WATCH, path_version(path, mode), watches=((kind, path),)), *life(path, create, change, delete)]
    return steps + set_again(create, change, delete) + caught_up(create, change, delete)


def life(path, create, change, delete):
    """A node and its child, from their creation to their end."""
    child = path + b"/c"
    return [create(path), change(path), create(child), change(child), delete(child), delete(path)]


def set_again(create, change, delete):
    """Watches that setWatches and setWatches2 register: nothing has changed since the last zxid that there can be."""
    steps = []
    for op, kinds in ((SET_WATCHES, KINDS[:3]), (SET_WATCHES2, KINDS)):
        for at, kind in enumerate(kinds):
            path = BASE + b"/%d-%d" % (op, at)
            lists = [[path] if kind == other else [] for other in kinds]
            watch = lambda: Step(1, op, set_watches_record(2**62, *lists), xid=-8, watches=((f"set {kind}", path),))  # noqa: E731, B023
            if kind in ("data", "child"):
                steps += [create(path), watch(), change(path), watch(), create(path + b"/c"), delete(path + b"/c"), watch(), delete(path)]
            else:
                steps += [watch(), *life(path, create, change, delete)]
    return steps


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
    ops += [SYNC, MULTI, MULTI_READ, GET_EPHEMERALS, CHECK_WATCHES, REMOVE_WATCHES, SET_WATCHES, SET_WATCHES2, GET_ALL_CHILDREN_NUMBER, ADD_WATCH]
    return [Step(2, op, string(free)[:6]) for op in ops] + [Step(2, AUTH, auth_record("nosuch", b""), xid=-4)]


def quota_tour():
    """What a hard quota refuses: one node more, or one byte more."""
    base, quota = BASE + b"/q", b"/zookeeper/quota" + BASE
    limits = b"count=-1,bytes=-1=;byteHardLimit=10;countHardLimit=2"
    nodes = [(base, b"12345"), (quota, b""), (quota + b"/q", b""), (quota + b"/q/zookeeper_limits", limits)]
    nodes += [(quota + b"/q/zookeeper_stats", b"count=0,bytes=0"), (base + b"/a", b"12345")]
    steps = [Step(0, CREATE, create_record(path, data)) for path, data in nodes]
    stats = lambda: Step(1, GET_DATA, path_watch(quota + b"/q/zookeeper_stats"))  # noqa: E731
    refused = [(SET_DATA, set_data_record(base, b"123456")), (SET_DATA, set_data_record(base, b"123456", 77))]
    for op, flags, more in ((CREATE, 0, b""), (CREATE2, SEQUENTIAL, b""), (CREATE_CONTAINER, CONTAINER, b""), (CREATE_TTL, TTL, i64(10**6))):
        refused.append((op, create_record(base + b"/b", b"", OPEN, flags) + more))
    for op, record in refused:
        steps += [Step(0, op, record), Step(0, MULTI, multi_record((op, record)), inner=(op,)), stats()]
    steps += [Step(0, DELETE, path_version(base + b"/a")), stats(), Step(0, CREATE, create_record(base + b"/b")), stats()]
    # Less than before, and still too much: refused as well.
    steps += [Step(0, SET_DATA, set_data_record(quota + b"/q/zookeeper_limits", b"count=-1,bytes=-1=;byteHardLimit=1"))]
    return steps + [Step(0, SET_DATA, set_data_record(base, b"1234")), stats(), Step(0, SET_DATA, set_data_record(base, b"")), stats()]


def switched_off_tour():
    """Without TTL nodes, and with reconfig allowed where there is nobody to take in."""
    steps = []
    for op in (CREATE, CREATE2, CREATE_CONTAINER, CREATE_TTL):
        for flags in (0, TTL, 6, 7):
            record = create_record(BASE + b"/%d-%d" % (op, flags), b"", OPEN, flags) + (i64(10**6) if op == CREATE_TTL else b"")
            steps += [Step(0, op, record), Step(0, MULTI, multi_record((CHECK, path_version(BASE)), (op, record)), inner=(CHECK, op))]
    for server in ("1", ""):
        steps.append(Step(0, RECONFIG, string(None) + string(server) + string(None) + i64(-1)))
    return [*steps, Step(1, AUTH, auth_record("digest", b"super:secret"), xid=-4), Step(1, RECONFIG, string("x") * 3 + i64(7))]


# What makes the servers of the last tour different from all others.
SWITCHED_OFF = {"extendedTypesEnabled": "false", "reconfigEnabled": "true"}


def tours():
    """Pairs of settings and sequence."""
    return [({}, numbered(tour)) for tour in (error_tour(), watch_tours(), quota_tour())] + [(SWITCHED_OFF, numbered(switched_off_tour()))]
