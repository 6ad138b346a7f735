"""What a frame says, as a flat list of items that can be compared between two servers: times and session ids are masked,
zxids are marked so that they can be compared by rank, lists whose order ZooKeeper leaves to a Java hash set are sorted,
text is in UTF-8. Everything else stays as its bytes. Refuses to interpret what it cannot parse: that is compared as it stands.
"""

import struct
from bisect import bisect_left

import wire

STAT_BYTES = 68
CREATES = {wire.CREATE, wire.CREATE2, wire.CREATE_CONTAINER, wire.CREATE_TTL}
STAT_ALONE = {wire.EXISTS, wire.SET_DATA, wire.SET_ACL}


class Zxid(int):
    """A transaction id: compared by rank."""

    def __repr__(self):
        return f"zxid {int(self):#x}"


class Ranks:
    """The order-preserving pairing of two servers' zxids, found as they are seen."""

    def __init__(self):
        self.apache_of = {}
        self.order = []
        self.twin_of = {}

    def same(self, apache, falconer):
        """Whether the two may name the same transaction."""
        if apache <= 0 or falconer <= 0:
            return apache == falconer
        apache = self.twin_of.get(apache, apache)
        if falconer in self.apache_of:
            return self.apache_of[falconer] == apache
        at = bisect_left(self.order, falconer)
        below = at == 0 or self.apache_of[self.order[at - 1]] < apache
        above = at == len(self.order) or apache < self.apache_of[self.order[at]]
        if below and above:
            self.pair(apache, falconer)
        return below and above

    def pair(self, apache, falconer):
        """From now on the two are the same, whatever else either was paired with."""
        apache = self.twin_of.get(apache, apache)
        if falconer in self.apache_of:
            if self.apache_of[falconer] != apache:
                self.twin_of[apache] = self.apache_of[falconer]
            return
        self.order.insert(bisect_left(self.order, falconer), falconer)
        self.apache_of[falconer] = apache


def same_items(ranks, apache, falconer):
    """Whether two lists of items agree."""
    return len(apache) == len(falconer) and all(same_item(ranks, *pair) for pair in zip(apache, falconer))


def same_item(ranks, apache, falconer):
    if isinstance(apache, Zxid) and isinstance(falconer, Zxid):
        return ranks.same(apache, falconer)
    return apache == falconer


def stat_items(stat, owners):
    """`owners` names the sessions known to this run."""
    czxid, mzxid, ctime, mtime, *versions, owner, length, count, pzxid = stat
    times = (ctime != 0, mtime != 0, mtime >= ctime)
    return ["stat", Zxid(czxid), Zxid(mzxid), Zxid(pzxid), *times, *versions, owners.get(owner, owner), length, count]


def in_utf8(text):
    """ZooKeeper writes a character beyond the BMP as two surrogates of three bytes each (CESU-8)."""
    if text is None or b"\xed" not in text:
        return text
    return text.decode(errors="surrogatepass").encode("utf-16", "surrogatepass").decode("utf-16").encode()


def strings_sorted(reader):
    return ["set", sorted(in_utf8(reader.buffer()) or b"(null)" for _ in range(reader.i32()))]


def acl_sorted(reader):
    entries = [(reader.i32(), reader.buffer(), reader.buffer()) for _ in range(reader.i32())]
    return ["acl", sorted(entries)]


def multi_items(reader, owners):
    items = []
    while True:
        kind, done, err = reader.i32(), reader.boolean(), reader.i32()
        items += [("result", kind, done, err)]
        if done:
            return items
        items += [reader.i32()] if kind == -1 else success_items(kind, reader, owners)


def success_items(op, reader, owners):
    """The fields of one success body, or of one result of a multi."""
    stat = lambda: stat_items(reader.stat(), owners)  # noqa: E731
    if op in CREATES:
        return [reader.buffer(), *(stat() if op != wire.CREATE else [])]
    if op in STAT_ALONE:
        return stat()
    if op in (wire.GET_DATA, wire.RECONFIG):
        return [reader.buffer(), *stat()]
    if op == wire.GET_ACL:
        return [*acl_sorted(reader), *stat()]
    if op in (wire.GET_CHILDREN, wire.GET_EPHEMERALS):
        return strings_sorted(reader)
    if op == wire.GET_CHILDREN2:
        return [*strings_sorted(reader), *stat()]
    if op == wire.SYNC:
        return [in_utf8(reader.buffer())]
    if op == wire.WHO_AM_I:
        return ["ids", sorted((reader.buffer(), reader.buffer()) for _ in range(reader.i32()))]
    if op in (wire.MULTI, wire.MULTI_READ):
        return multi_items(reader, owners)
    return []


def body_items(op, body, owners):
    """The items of a whole body; what is left behind its record stays as bytes."""
    reader = wire.Reader(body)
    try:
        items = success_items(op, reader, owners)
    except (AssertionError, struct.error, MemoryError):
        return ["unparsed", body]
    return items + [body[reader.at :]]


def reply_items(op, frame, owners):
    """The items of a reply frame to a request of this opcode."""
    xid, zxid, err = struct.unpack(">iqi", frame[:16])
    return [xid, Zxid(zxid), err, *body_items(op, frame[16:], owners)]


def event_items(frame):
    """The items of a watch event frame."""
    xid, zxid, err = struct.unpack(">iqi", frame[:16])
    reader = wire.Reader(frame[16:])
    return [xid, Zxid(zxid), err, "event", reader.i32(), reader.i32(), in_utf8(reader.buffer()), frame[16 + reader.at :]]


def hello_items(frame):
    """The items of a handshake's reply: protocol, timeout, whether there is a session, the rest of the password."""
    protocol, timeout_ms, session, length = struct.unpack(">iiqi", frame[:20])
    return [protocol, timeout_ms, session != 0, length, frame[20 + 16 :]]
