"""What kazoo users do: data, transactions, access control, watches and the recipes, with several clients at once."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from kazoo import exceptions
from kazoo.client import KazooState
from kazoo.recipe.queue import LockingQueue
from kazoo.security import make_acl, make_digest_acl
from kazoo.protocol.states import EventType
from sessions import end, frozen_later, kazoo_client
from wire import eventually


@pytest.fixture
def new_client(server):
    """A function that starts kazoo clients on the shared server."""
    clients = []

    def new(**options):
        clients.append(kazoo_client(server, **options))
        return clients[-1]

    yield new
    for client in clients:
        end(client)


@pytest.fixture
def zk(new_client):
    return new_client()


def run_all(work, count):
    """Runs `work(i)` in `count` threads at once; their results."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


# Data


def test_create_get_set_delete(zk, base):
    path, stat = zk.create(base + "/a", b"one", include_data=True)
    assert (path, stat.version, stat.data_length) == (base + "/a", 0, 3)
    assert zk.get(path) == (b"one", stat)
    changed = zk.set(path, b"three", version=0)
    assert (changed.version, changed.czxid, zk.get(path)[0]) == (1, stat.czxid, b"three")
    assert zk.exists(path) == changed
    assert zk.exists(base + "/none") is None
    with pytest.raises(exceptions.BadVersionError):
        zk.set(path, b"x", version=0)
    with pytest.raises(exceptions.NodeExistsError):
        zk.create(path)
    with pytest.raises(exceptions.NoNodeError):
        zk.get(base + "/none")
    with pytest.raises(exceptions.BadVersionError):
        zk.delete(path, version=7)
    zk.create(path + "/child")
    with pytest.raises(exceptions.NotEmptyError):
        zk.delete(path)
    zk.delete(path, recursive=True)
    assert zk.exists(path) is None


def test_children_and_paths(zk, base):
    zk.ensure_path(base + "/x/y/z")
    zk.create(base + "/deep/er/still", b"d", makepath=True)
    assert sorted(zk.get_children(base)) == ["deep", "x"]
    children, stat = zk.get_children(base + "/x", include_data=True)
    assert (children, stat.children_count) == (["y"], 1)
    assert zk.sync(base) == base


def test_sequences_and_ephemerals(zk, new_client, base):
    other = new_client()
    made = [zk.create(base + "/s-", sequence=True) for _ in range(3)]
    assert made == [f"{base}/s-{i:010}" for i in range(3)]
    mine = other.create(base + "/e-", ephemeral=True, sequence=True)
    assert zk.exists(mine).ephemeralOwner == other.client_id[0]
    with pytest.raises(exceptions.NoChildrenForEphemeralsError):
        zk.create(mine + "/child")
    other.stop()  # Sends the request and does not wait for its reply.
    eventually(lambda: zk.exists(mine) is None, within_s=5)


def test_transactions(zk, base):
    transaction = zk.transaction()
    transaction.create(base + "/a", b"1")
    transaction.check(base, version=0)
    transaction.set_data(base + "/a", b"2")
    transaction.create(base + "/gone")
    transaction.delete(base + "/gone")
    results = transaction.commit()
    assert (results[0], results[1], results[2].version, results[3], results[4]) == (base + "/a", True, 1, base + "/gone", True)
    transaction = zk.transaction()
    transaction.set_data(base + "/a", b"3")
    transaction.delete(base + "/none")
    transaction.create(base + "/b")
    results = transaction.commit()
    kinds = [exceptions.RolledBackError, exceptions.NoNodeError, exceptions.RuntimeInconsistency]
    assert [type(result) for result in results] == kinds
    assert zk.get(base + "/a")[0] == b"2"
    assert zk.exists(base + "/b") is None


def test_access_control(zk, new_client, base):
    bob = new_client(auth_data=[("digest", "bob:secret")])
    path = bob.create(base + "/mine", b"s", acl=[make_digest_acl("bob", "secret", all=True)])
    for refused in (lambda: zk.get(path), lambda: zk.set(path, b""), lambda: zk.set_acls(path, [])):
        with pytest.raises((exceptions.NoAuthError, exceptions.InvalidACLError)):
            refused()
    zk.add_auth("digest", "bob:secret")
    assert zk.get(path)[0] == b"s"
    zk.set_acls(path, [make_acl("world", "anyone", read=True), make_acl("auth", "", all=True)])
    acls, stat = zk.get_acls(path)
    assert (len(acls), stat.acl_version) == (2, 1)
    with pytest.raises(exceptions.NoAuthError):
        new_client().set(path, b"x")
    with pytest.raises(exceptions.AuthFailedError):
        new_client().add_auth("nosuch", "x")


def test_chroot(zk, new_client, base):
    inside = new_client(chroot=base)
    inside.create("/a/b", b"x", makepath=True)
    assert zk.get(base + "/a/b")[0] == b"x"
    seen = []
    inside.get("/a/b", watch=lambda event: seen.append((event.type, event.path)))
    zk.set(base + "/a/b", b"y")
    eventually(lambda: seen == [(EventType.CHANGED, "/a/b")])
    lock = inside.Lock("/lock")
    with lock:
        assert len(zk.get_children(base + "/lock")) == 1


def test_many_outstanding_requests(zk, base):
    created = [zk.create_async(f"{base}/n{i}", b"%d" % i) for i in range(500)]
    assert [result.get(10) for result in created] == [f"{base}/n{i}" for i in range(500)]
    values = [zk.get_async(f"{base}/n{i}") for i in range(500)]
    assert [result.get(10)[0] for result in values] == [b"%d" % i for i in range(500)]
    assert len(zk.get_children(base)) == 500


# Watches


def test_one_shot_watches(zk, new_client, base):
    other, seen = new_client(), []
    note = lambda event: seen.append((event.type, event.path))  # noqa: E731
    assert zk.exists(base + "/a", watch=note) is None
    zk.get_children(base, watch=note)
    other.create(base + "/a")
    eventually(lambda: len(seen) == 2)
    zk.get(base + "/a", watch=note)
    other.set(base + "/a", b"1")
    other.set(base + "/a", b"2")
    other.delete(base + "/a")
    eventually(lambda: len(seen) == 3)
    zk.sync(base)
    assert seen == [(EventType.CREATED, base + "/a"), (EventType.CHILD, base), (EventType.CHANGED, base + "/a")]


def test_data_watch(zk, new_client, base):
    other, seen = new_client(), []
    zk.DataWatch(base + "/a", lambda data, stat: seen.append(data))
    other.create(base + "/a", b"1")
    eventually(lambda: seen[-1:] == [b"1"])
    other.set(base + "/a", b"2")
    eventually(lambda: seen[-1:] == [b"2"])
    other.delete(base + "/a")
    eventually(lambda: seen[-1:] == [None])
    assert seen == [None, b"1", b"2", None]


def test_children_watch(zk, new_client, base):
    other, seen = new_client(), []
    zk.ChildrenWatch(base, lambda children: seen.append(sorted(children)))
    for i in range(5):
        other.create(f"{base}/{i}", ephemeral=True)
        eventually(lambda: len(seen[-1]) == i + 1)
    other.stop()
    eventually(lambda: seen[-1] == [])


# Recipes


def test_lock_admits_one_at_a_time(new_client, base):
    clients = [new_client() for _ in range(4)]
    inside, most, entries = [], [], []

    def contend(i):
        for _ in range(5):
            with clients[i % 4].Lock(base + "/lock", f"worker-{i}"):
                inside.append(i)
                most.append(len(inside))
                time.sleep(0.002)
                inside.remove(i)
                entries.append(i)

    run_all(contend, 8)
    assert max(most) == 1
    assert len(entries) == 40


def test_lock_that_is_taken_times_out(zk, new_client, base):
    held = zk.Lock(base + "/lock", "first")
    assert held.acquire(timeout=5)
    waiting = new_client().Lock(base + "/lock", "second")
    with pytest.raises(exceptions.LockTimeout):
        waiting.acquire(timeout=0.3)
    assert waiting.contenders() == ["first"]
    held.release()
    assert waiting.acquire(timeout=5)
    waiting.release()


def test_read_and_write_locks(zk, new_client, base):
    other = new_client()
    readers = [zk.ReadLock(base + "/lock"), other.ReadLock(base + "/lock")]
    assert all(reader.acquire(timeout=5) for reader in readers)
    writer = other.WriteLock(base + "/lock")
    assert not writer.acquire(blocking=False)
    for reader in readers:
        reader.release()
    assert writer.acquire(timeout=5)
    assert not readers[0].acquire(blocking=False)
    writer.release()


def test_election_leads_one_after_the_other(new_client, base):
    clients = [new_client() for _ in range(4)]
    leading, led = [], []

    def lead(i):
        leading.append(i)
        assert len(leading) == 1
        time.sleep(0.02)
        led.append(i)
        leading.remove(i)

    run_all(lambda i: clients[i].Election(base + "/election", f"c{i}").run(lead, i), 4)
    assert sorted(led) == [0, 1, 2, 3]


def test_party(new_client, base):
    clients = [new_client() for _ in range(3)]
    parties = [client.Party(base + "/party", f"member-{i}") for i, client in enumerate(clients)]
    for party in parties:
        party.join()
    assert sorted(parties[0]) == ["member-0", "member-1", "member-2"]
    clients[2].stop()
    eventually(lambda: sorted(parties[0]) == ["member-0", "member-1"])
    parties[1].leave()
    assert len(parties[0]) == 1


def test_counter(new_client, base):
    clients = [new_client() for _ in range(4)]

    def count(i):
        counter = clients[i].Counter(base + "/counter")
        for _ in range(10):
            counter += 1

    run_all(count, 4)
    assert clients[0].Counter(base + "/counter").value == 40


def test_queue(new_client, base):
    producer, consumers = new_client(), [new_client() for _ in range(2)]
    queue = producer.Queue(base + "/queue")
    for i in range(40):
        queue.put(b"%d" % i, priority=50 if i else 10)
    taken = run_all(lambda i: [consumers[i].Queue(base + "/queue").get() for _ in range(20)], 2)
    assert sorted(int(item) for part in taken for item in part if item) == list(range(40))
    assert queue.get() is None


def test_locking_queue(zk, new_client, base):
    queue, other = zk.LockingQueue(base + "/queue"), new_client().LockingQueue(base + "/queue")
    assert isinstance(queue, LockingQueue)
    queue.put_all([b"a", b"b", b"c"])
    first, second = queue.get(timeout=5), other.get(timeout=5)
    assert {first, second} == {b"a", b"b"}
    assert queue.holds_lock() and queue.consume() and other.consume()
    assert other.get(timeout=5) == b"c"
    other.release()
    assert queue.get(timeout=5) == b"c"
    assert queue.consume()
    assert len(queue) == 0


def test_barriers(new_client, base):
    clients = [new_client() for _ in range(3)]
    barrier = clients[0].Barrier(base + "/barrier")
    barrier.create()
    assert not clients[1].Barrier(base + "/barrier").wait(timeout=0.2)
    threading.Timer(0.1, barrier.remove).start()
    assert clients[1].Barrier(base + "/barrier").wait(timeout=5)
    entered = []

    def both_ways(i):
        double = clients[i].DoubleBarrier(base + "/double", 3)
        double.enter()
        entered.append(i)
        double.leave()
        return double.participating

    assert run_all(both_ways, 3) == [False] * 3
    assert sorted(entered) == [0, 1, 2]


def test_semaphore(new_client, base):
    clients = [new_client() for _ in range(3)]
    inside, most = [], []

    def enter(i):
        for _ in range(4):
            with clients[i % 3].Semaphore(base + "/semaphore", max_leases=2):
                inside.append(i)
                most.append(len(inside))
                time.sleep(0.01)
                inside.remove(i)

    run_all(enter, 6)
    assert max(most) == 2
    assert clients[0].Semaphore(base + "/semaphore", max_leases=2).lease_holders() == []


# Silence


def test_a_silenced_client_loses_its_session_and_its_lock(server, zk, base):
    code = f"""
client.create({base + "/mine"!r}, ephemeral=True)
assert client.Lock({base + "/lock"!r}, "silent").acquire(timeout=5)
"""
    gone = threading.Event()
    lock = zk.Lock(base + "/lock", "patient")
    with frozen_later(server, code) as other:
        assert zk.exists(base + "/mine", watch=lambda event: gone.set() if event.type == EventType.DELETED else None)
        os.kill(other.pid, signal.SIGSTOP)
        began = time.monotonic()
        assert lock.acquire(timeout=10)
        assert 0.5 <= time.monotonic() - began < 5
        assert gone.wait(5)
        assert zk.exists(base + "/mine") is None
        os.kill(other.pid, signal.SIGCONT)
        assert KazooState.LOST in (line.strip() for line in iter(other.stdout.readline, ""))
    lock.release()


def test_an_expired_session_is_replaced_and_clients_hear_of_it(zk, base):
    zk.create(base + "/mine", ephemeral=True)
    session = zk.client_id
    zk._session_id = 0x7777777777777777  # As if the server had forgotten the session.
    zk._connection._socket.shutdown(2)
    eventually(lambda: zk.states[-2:] == [KazooState.LOST, KazooState.CONNECTED])
    assert zk.client_id != session
    zk.create(base + "/again", ephemeral=True)
