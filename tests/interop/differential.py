"""Falconer against a real Apache ZooKeeper, frame by frame: random sequences of requests over several sessions go to both,
after each step every session is flushed with a ping, and all replies and watch events must agree under the masks of
differential_replies.py. A disagreement is shrunk to the shortest sequence that still shows it, and printed.

    tests/interop/differential.py [--seed N] [--minutes M]

Needs ZOOKEEPER_CLASSPATH, the folder of the jars that .ci/fetch-zookeeper makes. The agreed differences are in
differential_steps.py, where they are kept from being asked. Refuses to go on with servers that have disagreed: each
disagreement costs a new pair of them.
"""

import argparse
import random
import re
import struct
import sys
import time
from itertools import chain, count

import differential_replies as replies
import servers
import wire
from differential_coverage import Coverage
from differential_steps import BASE, DROP, SLOTS, Step, random_steps
from differential_tours import tours

# The super user's password is `secret`. Reapers stay out of it: they act by the clock.
SETTINGS = {
    "tickTime": 1000,
    "maxSessionTimeout": 60000,
    "maxClientCnxns": 0,
    "extendedTypesEnabled": "true",
    "enforceQuota": "true",
    "admin.enableServer": "false",
    "znode.container.checkIntervalMs": 86400000,
    "DigestAuthenticationProvider.superDigest": "super:lK75jTNcA+U9vtVEw5vB51mj/w4=",
}
SESSION_MS = 30000
STEPS_PER_SEQUENCE = 80
SHRINK_S = 60
ZXID_MARK = re.compile(rb"\x01zxid(\d{3})")
DISAGREEMENTS_MAX = 8
SILENCE = b"no answer within 10 s"
MARSHALLING = struct.pack(">i", wire.MARSHALLING)


class Seat:
    """One session on one server, through all its connections."""

    def __init__(self, side, name):
        self.side = side
        self.name = name
        self.connection = None
        self.hello = None

    def open(self, session=0, password=bytes(16)):
        """Connects, with a new session or an old one; the reply's items."""
        self.connection = wire.Connection(self.side.server.port)
        self.connection.send_frame(wire.Connection.handshake_record(SESSION_MS, session, password))
        frame = self.connection.receive_frame()
        _, _, session, _ = struct.unpack(">iiqi", frame[:20])
        self.hello = (session, frame[20:36])
        self.side.owners[session] = self.name
        return replies.hello_items(frame)

    def frames_until(self, is_last):
        """Frames up to the first that `is_last`, and None behind them if the connection has ended."""
        frames = []
        try:
            while not frames or not is_last(frames[-1]):
                frames.append(self.connection.receive_frame())
        except wire.Closed:
            frames.append(None)
        except TimeoutError:
            frames.append(SILENCE)
        return frames

    def send(self, payload):
        try:
            self.connection.send_frame(payload)
        except OSError:
            pass  # what it has said before it closed is still to be read


class Side:
    """One of the two servers and its sessions."""

    def __init__(self, server):
        self.server = server
        self.owners = {}
        self.seats = {}
        self.zxids = {}

    def begin(self):
        self.owners = {}
        self.zxids = {-1: 0}
        self.seats = {slot: Seat(self, f"session {slot}") for slot in range(SLOTS)}

    def zxid_at(self, index):
        """The last zxid seen up to a step."""
        return self.zxids[max(at for at in self.zxids if at <= index)]


def is_event(frame):
    return frame is not None and frame[:4] == b"\xff\xff\xff\xff" and len(frame) > 16


def is_reply(frame):
    return frame is not None and not is_event(frame)


def is_event_items(items):
    return "event" in items


class Disagreement(Exception):
    """The two differ: `kind` says at what, `text` how."""

    def __init__(self, at, kind, text):
        super().__init__(text)
        self.at, self.kind, self.text = at, kind, text


class Run:
    """One sequence on a fresh base node of both servers."""

    def __init__(self, pair, coverage):
        self.sides = pair.sides
        self.base = pair.next_base()
        self.ranks = replies.Ranks()
        self.coverage = coverage
        self.at = -1

    def payload(self, side, step):
        """A step's record for one server: the base node's name and the zxids put in."""
        record = step.record.replace(BASE, self.base)
        put = lambda mark: struct.pack(">q", side.zxid_at(int(mark[1])))  # noqa: E731
        return ZXID_MARK.sub(put, record)

    def both(self, kind, apache, falconer, show=None):
        """Demands that two lists of items agree."""
        if not replies.same_items(self.ranks, apache, falconer):
            raise Disagreement(self.at, kind, f"ZooKeeper: {show[0] if show else apache}\n  Falconer:  {show[1] if show else falconer}")

    def open_slot(self, slot, again=False):
        """A new connection of a slot on both servers, with its session or a new one."""
        hellos = [side.seats[slot].open(*(side.seats[slot].hello if again else ())) for side in self.sides]
        self.both("handshake", *hellos)
        if again:
            self.flush_attach(slot)

    def flush_attach(self, slot):
        """Falconer spends a zxid on a session that comes back, ZooKeeper does not: that one is paired by hand."""
        zxids = []
        for side in self.sides:
            side.seats[slot].send(struct.pack(">ii", -2, wire.PING))
            zxids.append(struct.unpack(">q", side.seats[slot].frames_until(is_reply)[-1][4:12])[0])
        self.ranks.pair(*zxids)

    def begin(self):
        for side in self.sides:
            side.begin()
        for slot in range(SLOTS):
            self.open_slot(slot)
        for side in self.sides:
            connection = side.seats[0].connection
            connection.create(self.base.decode())
            connection.create(self.base.decode() + "/n")
        # Pairs the last zxid, so that every zxid that only one of them spends later has its neighbour.
        self.barrier(Step(0, wire.PING, note="begin", index=-1))

    def end(self):
        """Sessions end, then everything is as it was before."""
        for side in self.sides:
            for seat in side.seats.values():
                seat.send(struct.pack(">ii", 1, wire.CLOSE_SESSION))
                seat.frames_until(lambda frame: False)
                seat.connection.close()
            sweep(side.server.port)

    def play(self, steps):
        """Raises at the first disagreement."""
        self.begin()
        try:
            for step in steps:
                self.at = step.index
                self.one(step)
        finally:
            self.end()

    def one(self, step):
        self.coverage.asks(step)
        if step.op == DROP:
            for side in self.sides:
                side.seats[step.slot].connection.close()
            self.coverage.forgets(step.slot)
            self.open_slot(step.slot, again=True)
        else:
            self.ask(step)
        self.barrier(step)

    def ask(self, step):
        for side in self.sides:
            side.seats[step.slot].send(struct.pack(">ii", step.xid, step.op) + self.payload(side, step))
        answers = [side.seats[step.slot].frames_until(is_reply) for side in self.sides]
        self.compare(step, step.slot, answers)
        last = answers[0][-1]
        if last is not None and step.closes(struct.unpack(">i", last[12:16])[0]):
            answers = [side.seats[step.slot].frames_until(lambda frame: False) for side in self.sides]
            self.compare(step, step.slot, answers)
            last = None
        if last is None:
            for side in self.sides:
                side.seats[step.slot].connection.close()
            self.coverage.forgets(step.slot)
            self.open_slot(step.slot, again=step.op != wire.CLOSE_SESSION)

    def barrier(self, step):
        """A ping on every session brings in whatever events the step has caused."""
        for slot in range(SLOTS):
            for side in self.sides:
                side.seats[slot].send(struct.pack(">ii", -2, wire.PING))
        for slot in range(SLOTS):
            answers = [side.seats[slot].frames_until(is_reply) for side in self.sides]
            self.compare(step, slot, answers, op=wire.PING)
            for side, frames in zip(self.sides, answers):
                side.zxids[step.index] = struct.unpack(">q", frames[-1][4:12])[0]

    def pair_refused(self, answers):
        """ZooKeeper spends zxids on some of the requests that it cannot execute at all, Falconer on none."""
        last = [frames[-1] for frames in answers]
        if all(is_reply(frame) and frame[12:16] == MARSHALLING for frame in last):
            self.ranks.pair(*(struct.unpack(">q", frame[4:12])[0] for frame in last))

    def compare(self, step, slot, answers, op=None):
        """Compares what one session has received on the two servers."""
        self.pair_refused(answers)
        op = step.op if op is None else op
        kind = f"opcode {step.op}: {'events' if op == wire.PING else 'reply'}"
        if SILENCE in answers[0] + answers[1]:
            raise Disagreement(self.at, kind + ": silence", f"session {slot} on ZooKeeper: {answers[0]}, on Falconer: {answers[1]}")
        masked = [[self.items(side, op, frame) for frame in frames] for side, frames in zip(self.sides, answers)]
        if step.op == wire.CLOSE_SESSION:
            # The ephemerals of a session go in the order of a hash set.
            for frames in masked:
                frames.sort(key=lambda items: (not is_event_items(items), [] if not is_event_items(items) else items[4:]))
        if len(masked[0]) != len(masked[1]):
            raise Disagreement(self.at, kind, f"session {slot} on ZooKeeper: {masked[0]}\n  session {slot} on Falconer:  {masked[1]}")
        for apache, falconer in zip(*masked):
            self.both(kind, apache, falconer, show=[f"session {slot}: {items}" for items in (apache, falconer)])
        for frame in answers[0]:
            if is_event(frame):
                self.coverage.saw_event(slot, frame, self.base)
            elif frame is not None and op == step.op:
                self.coverage.saw_reply(step, frame)

    def items(self, side, op, frame):
        if frame is None:
            return ["closed"]
        if len(frame) < 16:
            return ["no frame", frame]
        return replies.event_items(frame) if is_event(frame) else replies.reply_items(op, frame, side.owners)


SYSTEM_NODES = {"/": ["zookeeper"], "/zookeeper": ["config", "quota"], "/zookeeper/quota": []}


def sweep(port):
    """Deletes all but the system's nodes, as the super user, and gives these back the access that they began with."""
    connection = wire.open_session(port)
    connection.auth("digest", b"super:secret")

    def remove(path):
        for name in connection.children(path)[0]:
            remove(f"{path}/{name}")
        connection.delete(path)

    for path, kept in SYSTEM_NODES.items():
        for name in set(connection.children(path)[0]) - set(kept):
            remove(f"{path.rstrip('/')}/{name}")
        connection.ok(wire.SET_ACL, wire.set_acl_record(path, wire.OPEN))
    connection.ok(wire.SET_ACL, wire.set_acl_record("/zookeeper/config", [(1, "world", "anyone")]))
    connection.call(wire.CLOSE_SESSION)
    connection.close()


class Pair:
    """The two servers, replaced together."""

    def __init__(self):
        self.sides = []
        self.bases = 0
        self.settings = None

    def start(self, settings=()):
        """Two new servers, with `settings` on top of the usual ones."""
        self.stop()
        self.settings = dict(settings)
        # ZooKeeper need not survive a power cut here.
        fast = ["-Dzookeeper.forceSync=no"]
        apache = servers.Server(SETTINGS | self.settings, apache=True, java_options=fast)
        falconer = servers.Server(SETTINGS | self.settings, apache=False)
        self.sides = [Side(apache), Side(falconer)]
        for side in self.sides:
            side.server.start()

    def renew(self):
        """Servers that have disagreed are of no more use."""
        self.start(self.settings)

    def have(self, settings):
        """Replaces the two unless these are their settings."""
        if self.settings != dict(settings):
            self.start(settings)

    def stop(self):
        for side in self.sides:
            side.server.remove()
        self.sides = []

    def next_base(self):
        self.bases += 1
        return b"/d%05d" % (self.bases % 100000)


def attempt(pair, coverage, steps):
    """Plays a sequence; the disagreement, after which the servers are new, or None."""
    try:
        Run(pair, coverage).play(steps)
    except Disagreement as found:
        pair.renew()
        return found
    return None


def shrink(pair, steps, first):
    """Fewer steps that still disagree about the same thing (ddmin), and the disagreement they give."""
    steps, best = [step for step in steps if step.index <= first.at], first
    chunk = max(1, len(steps) // 2)
    until = time.monotonic() + SHRINK_S
    while chunk:
        shorter = False
        for start in range(0, len(steps), chunk):
            if time.monotonic() > until:
                return steps, best
            rest = steps[:start] + steps[start + chunk :]
            found = attempt(pair, Coverage(), rest) if rest else None
            if found and found.kind == first.kind:
                steps, best, shorter = rest, found, True
                break
        if not shorter:
            chunk //= 2
    return steps, best


def report(steps, found, name):
    lines = [f"The servers disagree ({name}), {found.kind}:"]
    lines += [f"  {step.index:3}  session {step.slot}  {step.note}" for step in steps]
    return "\n".join([*lines, f"  {found.text}"])


def explore(seed, seconds=0, sequences=0, log=print):
    """The tours, then random sequences: so many, and for so long. Returns (reports of disagreements, coverage, steps played)."""
    pair, coverage, reports, played = Pair(), Coverage(), [], 0
    until = time.monotonic() + seconds
    plans = ((settings, steps, "a tour") for settings, steps in reversed(tours()))
    randoms = ((({}, random_steps(random.Random(f"{seed}-{at}"), STEPS_PER_SEQUENCE), f"seed {seed}, sequence {at}") for at in count()))
    try:
        for settings, steps, name in chain(plans, randoms):
            if len(reports) == DISAGREEMENTS_MAX or (name != "a tour" and sequences <= 0 and time.monotonic() >= until):
                break
            sequences -= name != "a tour"
            pair.have(settings)
            found = attempt(pair, coverage, steps)
            played += len(steps)
            if found:
                reports.append(report(*shrink(pair, steps, found), name))
                log(reports[-1])
        return reports, coverage, played
    finally:
        pair.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", default=str(time.time_ns() % 10**6))
    parser.add_argument("--minutes", type=float, default=1)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    reports, coverage, played = explore(arguments.seed, arguments.minutes * 60)
    print(coverage.table())
    missing = coverage.missing()
    print(f"{played} steps with seed {arguments.seed}, {len(reports)} disagreements, never seen: {missing or 'nothing'}")
    sys.exit(1 if reports or missing else 0)


if __name__ == "__main__":
    main()
