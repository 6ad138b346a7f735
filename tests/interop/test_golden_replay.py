"""What a real ZooKeeper was asked when the golden bytes were captured (tests/golden/*.hex), asked again: the server must say
the same, frame by frame, under the masks of differential_replies.py. tests/golden.rs reads and writes these frames; here they
have to come out of a running server, also where no Java is to be had. On a ZooKeeper this shows that the capture still holds.
Refuses to replay the four-letter words: test_fourletter.py does.
"""

import re
import struct

import differential_replies as replies
import pytest
import servers
import wire

GOLDEN = servers.ROOT / "tests" / "golden"
SCENARIOS = sorted(path.stem for path in GOLDEN.glob("*.hex"))
# As capture_golden.py has them. The password of `super` is `secret`.
SETTINGS = {
    "tickTime": 2000,
    "extendedTypesEnabled": "true",
    "DigestAuthenticationProvider.superDigest": "super:lK75jTNcA+U9vtVEw5vB51mj/w4=",
}
JAVA = [f"-Dzookeeper.{key}={value}" for key, value in SETTINGS.items() if "." in key]
# Connections, by scenario and name, to which Falconer says something else on purpose.
DIFFERENCES = {
    ("sessions", "g"): "there is no SASL yet: an unknown opcode",
    ("unknown", "j"): "a frame that is too long for most requests may be a setWatches: that is told by its first bytes, not by its length",
}
GOES_AWAY = re.compile(r"(\w) goes away without closing its session")
FUTURE = 0x7FFF


def lines_of(scenario):
    """(connection, sign, frame, words before it); a connection that goes away has the sign `x`."""
    words, lines = "", []
    for line in (GOLDEN / f"{scenario}.hex").read_text().splitlines():
        if line.startswith("# "):
            words = line[2:]
            lines += [(found[1], "x", b"", words) for found in GOES_AWAY.finditer(words)]
            continue
        tag, _, frame = line.partition(" ")
        lines.append((tag[0], tag[1], bytes.fromhex(frame), words))
    return lines


class Replay:
    """One scenario against one server."""

    def __init__(self, port):
        self.port = port
        self.connections = {}
        self.asked = {}
        self.ranks = replies.Ranks()
        # Session ids, theirs and ours, and what they are called in what is compared.
        self.names = ({}, {})
        self.ours_of = {}
        self.zxid_of = {}
        self.unpaired = False
        self.unordered = ([], [])

    def send(self, label, frame):
        if label not in self.connections:
            self.connections[label] = wire.Connection(self.port)
            frame = self.handshake(frame)
        elif len(frame) >= 12:
            xid, op = struct.unpack(">ii", frame[4:12])
            self.asked[label, -2 if op == wire.PING else xid] = op
            if op in (wire.SET_WATCHES, wire.SET_WATCHES2):
                seen = struct.unpack(">q", frame[12:20])[0]
                frame = frame[:12] + struct.pack(">q", self.zxid_of.get(seen, seen)) + frame[20:]
        self.connections[label].send_raw(frame)

    def handshake(self, frame):
        """The frame with our session instead of theirs; a future zxid is one here too."""
        if len(frame) < 48:
            return frame
        zxid, timeout, session = struct.unpack(">qiq", frame[8:28])
        if session in self.ours_of:
            self.unpaired = True  # a session that comes back takes a zxid here, and none there
            session, password = self.ours_of[session]
            frame = frame[:32] + (password if frame[32] != 1 else frame[32:48]) + frame[48:]
        zxid = 2**62 if zxid == FUTURE else zxid
        return frame[:8] + struct.pack(">qiq", zxid, timeout, session) + frame[28:]

    def greeted(self, label, theirs, ours):
        sessions = [struct.unpack(">q", frame[8:16])[0] for frame in (theirs, ours)]
        for names, session in zip(self.names, sessions):
            names[session] = label
        self.ours_of[sessions[0]] = (sessions[1], ours[20:36])
        return [replies.hello_items(frame) for frame in (theirs, ours)]

    def items(self, label, theirs, ours):
        """Both frames as lists that can be compared."""
        if (label, "greeted") not in self.asked:
            self.asked[label, "greeted"] = True
            return self.greeted(label, theirs, ours)
        xid, zxid, err = struct.unpack(">iqi", theirs[:16])
        ours_zxid = struct.unpack(">q", ours[4:12])[0]
        if zxid > 0 and ours_zxid > 0:
            if self.unpaired or err == wire.MARSHALLING:
                self.ranks.pair(zxid, ours_zxid)
                self.unpaired = False
            self.zxid_of[zxid] = ours_zxid
        if xid == -1 and (label, xid) not in self.asked:
            return [replies.event_items(frame) for frame in (theirs, ours)]
        op = self.asked[label, xid]
        return [replies.reply_items(op, frame, names) for frame, names in zip((theirs, ours), self.names)]

    def receive(self, label, theirs, words):
        ours = self.connections[label].receive_frame()
        theirs, ours = self.items(label, theirs[4:], ours)
        if words.startswith("closeSession") and "event" in theirs:
            # The ephemerals of a session go in the order of a Java hash set.
            for events, event in zip(self.unordered, (theirs, ours)):
                events.append(repr(event[3:]))
            return
        assert replies.same_items(self.ranks, theirs, ours), f"{label}, {words}:\n  ZooKeeper said {theirs}\n  now        {ours}"

    def end(self):
        theirs, ours = self.unordered
        assert sorted(theirs) == sorted(ours)


@pytest.mark.time_limit(60)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_zookeeper_said_is_said_again(make_server, scenario):
    replay = Replay(make_server(SETTINGS, java_options=JAVA).start().port)
    for label, sign, frame, words in lines_of(scenario):
        if (scenario, label) in DIFFERENCES and not servers.ORACLE:
            continue
        if sign in ">~":
            replay.send(label, frame)
        elif sign == "<":
            replay.receive(label, frame, words)
        elif sign == "x":
            replay.connections.pop(label).close()
        else:
            assert replay.connections[label].is_closed(), f"{label} is not closed: {words}"
    replay.end()
