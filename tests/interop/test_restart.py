"""Restarts under kazoo clients, with SIGTERM and with kill -9: sessions go on, ephemerals and locks stay, watches are set
again, and every acknowledged write is found.
"""

import threading
import time

import pytest
import wire
from kazoo.client import KazooState
from kazoo.exceptions import KazooException
from sessions import end, kazoo_client
from wire import eventually

STOPS = pytest.mark.parametrize("stop", ["terminate", "kill"])


@pytest.fixture
def own(make_server):
    """A server that this test may stop, and a function that starts kazoo clients on it."""
    server, clients = make_server().start(), []

    def new(**options):
        clients.append(kazoo_client(server, **options))
        return clients[-1]

    yield server, new
    if not server.alive():
        server.start()
    for client in clients:
        end(client)


def restart(server, stop, pause_s=0.0):
    getattr(server, stop)()
    time.sleep(pause_s)
    server.start()


def connected_again(client):
    eventually(lambda: client.states[-2:] == [KazooState.SUSPENDED, KazooState.CONNECTED])


@STOPS
def test_sessions_ephemerals_and_locks_go_on(own, stop):
    server, new = own
    holder, other = new(), new()
    holder.create("/mine", b"e", ephemeral=True)
    lock = holder.Lock("/lock", "holder")
    assert lock.acquire(timeout=5)
    sessions = [holder.client_id, other.client_id]
    before = other.get("/mine")
    restart(server, stop, pause_s=0.3)
    connected_again(holder)
    connected_again(other)
    assert [holder.client_id, other.client_id] == sessions
    assert KazooState.LOST not in holder.states + other.states
    assert other.get("/mine") == before
    assert before[1].ephemeralOwner == sessions[0][0]
    assert not other.Lock("/lock", "other").acquire(blocking=False)
    holder.set("/mine", b"still mine")
    lock.release()
    assert other.Lock("/lock", "other").acquire(timeout=5)
    end(holder)
    # The client does not wait for the reply to its closeSession.
    eventually(lambda: other.exists("/mine") is None)


@STOPS
def test_watches_are_set_again(own, stop):
    server, new = own
    watching, writing = new(), new()
    writing.create("/w", b"0")
    data, children = [], []
    watching.DataWatch("/w", lambda value, stat: data.append(value))
    watching.ChildrenWatch("/w", lambda names: children.append(sorted(names)))
    restart(server, stop)
    writing.retry(writing.set, "/w", b"1")
    eventually(lambda: data[-1] == b"1")
    connected_again(watching)
    writing.create("/w/child")
    eventually(lambda: children[-1] == ["child"])
    writing.set("/w", b"2")
    eventually(lambda: data[-1] == b"2")


@STOPS
def test_a_waiting_contender_gets_the_lock_after_a_restart(own, stop):
    server, new = own
    holder, waiter = new(), new()
    lock, got = holder.Lock("/lock"), threading.Event()
    assert lock.acquire(timeout=5)

    def wait():
        with waiter.Lock("/lock"):
            got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: len(lock.contenders()) == 2)
    restart(server, stop)
    connected_again(holder)
    assert not got.wait(0.3)
    lock.release()
    assert got.wait(10)
    thread.join(10)


@STOPS
def test_state_is_the_same_bit_by_bit(own, stop):
    server, _ = own
    client = wire.open_session(server.port)
    client.auth("digest", b"bob:x")
    client.create("/tree")
    for i in range(50):
        client.create("/tree/s", b"%d" % i if i % 2 else None, flags=wire.SEQUENTIAL, acl=[(31, "auth", "")] if i % 3 else wire.OPEN)
    for i in range(0, 50, 5):
        client.delete(f"/tree/s{i:010}")
        client.set_data(f"/tree/s{i + 1:010}", b"x" * i)
    client.create("/tree/e", flags=wire.EPHEMERAL)

    def everything(reader):
        nodes = ["/", "/zookeeper", "/tree"] + ["/tree/" + name for name in reader.children("/tree")[0]]
        acls = [reader.ok(wire.GET_ACL, wire.string(path)) for path in nodes]
        return [(path, reader.get_data(path), acl.acl(), acl.stat()) for path, acl in zip(nodes, acls)]

    before, zxid = everything(client), client.call(wire.PING, xid=-2).zxid
    restart(server, stop)
    again = wire.Connection(server.port)
    assert again.handshake(session=client.hello.session, password=client.hello.password, last_zxid=zxid).session == client.hello.session
    again.auth("digest", b"bob:x")
    assert everything(again) == before
    assert again.create("/tree/s", flags=wire.SEQUENTIAL) == "/tree/s0000000051"
    again.delete("/tree/e")


def test_sessions_expire_after_a_restart_when_nobody_comes_back(own):
    server, _ = own
    gone = wire.open_session(server.port, timeout_ms=3000)
    gone.create("/gone", flags=wire.EPHEMERAL)
    restart(server, "kill")
    client = wire.open_session(server.port)
    assert client.exists("/gone", watch=True)
    event = client.next_event()
    assert (event.kind, event.path) == (wire.DELETED, "/gone")
    assert client.exists("/gone") is None


@pytest.mark.time_limit(60)
def test_acknowledged_writes_survive_kill_9_under_load(own):
    """Four kazoo writers, three kills: every version and every node that a reply confirmed is there."""
    server, new = own
    writers = [new() for _ in range(4)]
    acknowledged = {}
    stop = threading.Event()

    def write(i):
        client, number = writers[i], 0
        while not stop.is_set():
            path = f"/w{i}-{number}"
            try:
                client.create(path, b"x" * (number % 3000))
                acknowledged[path] = 0
                acknowledged[path] = client.set(path, b"again").version
            except KazooException:
                time.sleep(0.05)
            number += 1

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            time.sleep(1)
            restart(server, "kill")
        time.sleep(0.5)
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    restart(server, "kill")
    reader = wire.open_session(server.port)
    print(f"{len(acknowledged)} acknowledged nodes")
    assert len(acknowledged) > 50
    for path, version in acknowledged.items():
        stat = reader.exists(path)
        assert stat and stat.version >= version, f"{path} was acknowledged at version {version}: {stat}"
