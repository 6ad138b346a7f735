"""The rest of kazoo's recipes, and what becomes of recipes when the server is killed in the middle of them."""

import datetime
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from kazoo.client import KazooState
from kazoo.exceptions import KazooException
from kazoo.recipe.cache import TreeCache
from kazoo.recipe.lease import MultiNonBlockingLease, NonBlockingLease
from sessions import end, kazoo_client
from wire import eventually


@pytest.fixture
def clients_of():
    """A function that starts kazoo clients on a server."""
    clients = []

    def new(server, **options):
        clients.append(kazoo_client(server, **options))
        return clients[-1]

    yield new
    for client in clients:
        end(client)


@pytest.fixture
def own(make_server, clients_of):
    """A server that this test may kill, and a function that starts clients on it."""
    server = make_server().start()
    yield server, lambda **options: clients_of(server, **options)
    if not server.alive():
        server.start()


def killed_after(server, seconds):
    """Kills the server once, `seconds` from now, and starts it again."""

    def kill():
        time.sleep(seconds)
        server.kill()
        server.start()

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_a_lease_is_one_holders_until_it_ends(server, clients_of, base):
    first, second = clients_of(server), clients_of(server)
    duration = datetime.timedelta(seconds=1)
    assert NonBlockingLease(first, base + "/lease", duration, identifier="first")
    assert not NonBlockingLease(second, base + "/lease", duration, identifier="second")
    assert NonBlockingLease(first, base + "/lease", duration, identifier="first"), "the holder may renew it"
    eventually(lambda: bool(NonBlockingLease(second, base + "/lease", duration, identifier="second")))
    slots = [MultiNonBlockingLease(first, 2, base + "/many", datetime.timedelta(hours=1), identifier=f"h{i}") for i in range(3)]
    assert [bool(slot) for slot in slots] == [True, True, False]


def mirror(cache, path):
    """What a TreeCache holds below a path."""
    found = {path: cache.get_data(path).data} if cache.get_data(path) else {}
    for name in cache.get_children(path, []):
        found.update(mirror(cache, f"{path}/{name}"))
    return found


def tree(client, path):
    """What the server holds below a path."""
    found = {path: client.get(path)[0]}
    for name in client.get_children(path):
        found.update(tree(client, f"{path}/{name}"))
    return found


def test_a_tree_cache_mirrors_the_tree_through_a_kill(own):
    server, new = own
    watching, writing = new(), new()
    for i in range(20):
        writing.create(f"/t/d{i % 4}/n{i}", b"%d" % i, makepath=True)
    cache = TreeCache(watching, "/t")
    cache.start()
    eventually(lambda: mirror(cache, "/t") == tree(writing, "/t"))
    killer = killed_after(server, 0.2)
    for i in range(200):
        writing.retry(writing.set, f"/t/d{i % 4}/n{i % 20}", b"v%d" % i)
        if i % 10 == 0:
            writing.retry(writing.ensure_path, f"/t/d{i % 4}/more{i}")
    killer.join(30)
    writing.retry(writing.delete, "/t/d0/n0")
    eventually(lambda: mirror(cache, "/t") == tree(writing, "/t"), 20)
    cache.close()


def partition(client, name, path, parts, stop, held):
    """Takes part in a partition until told to stop; `held` says what it holds now."""
    partitioner = client.SetPartitioner(path, set=parts, identifier=name, time_boundary=0.5)
    while not stop.is_set() and not partitioner.failed:
        if partitioner.release:
            held.clear()
            partitioner.release_set()
        elif partitioner.acquired:
            held.update(partitioner)
            time.sleep(0.02)
        elif partitioner.allocating:
            partitioner.wait_for_acquire(1)
    partitioner.finish()


def test_a_set_is_partitioned_again_after_a_kill(own):
    server, new = own
    parts, stop = tuple(range(6)), threading.Event()
    held = [set(), set(), set()]
    threads = [threading.Thread(target=partition, args=(new(), f"p{i}", "/parts", parts, stop, mine)) for i, mine in enumerate(held)]
    for thread in threads:
        thread.start()
    whole = lambda: sorted(part for mine in held for part in set(mine)) == list(parts) and all(held)
    eventually(whole, 20)
    server.kill()
    server.start()
    eventually(whole, 20)
    stop.set()
    for thread in threads:
        thread.join(20)


def test_contended_locks_admit_one_at_a_time_through_a_kill(own):
    server, new = own
    clients = [new() for _ in range(4)]
    inside, most, entries = [], [], []
    killer = killed_after(server, 0.3)

    def contend(i):
        while len([e for e in entries if e == i]) < 10:
            lock = clients[i].Lock("/lock", f"worker-{i}")
            try:
                if not lock.acquire(timeout=10):
                    continue
                inside.append(i)
                most.append(len(inside))
                time.sleep(0.01)
                inside.remove(i)
                entries.append(i)
                lock.release()
            except KazooException:
                eventually(lambda: clients[i].connected)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(contend, range(4)))
    killer.join(30)
    assert max(most) == 1
    assert all(KazooState.LOST not in client.states for client in clients)


def test_a_queue_loses_nothing_through_a_kill(own):
    server, new = own
    putting, taking = new(), new()
    queue = putting.LockingQueue("/queue")
    acknowledged, attempted, taken = [], [], []
    killer = killed_after(server, 0.3)
    for i in range(150):
        attempted.append(b"%d" % i)
        try:
            queue.put(b"%d" % i)
            acknowledged.append(b"%d" % i)
        except KazooException:
            eventually(lambda: putting.connected)
    killer.join(30)
    consumer = taking.LockingQueue("/queue")
    while (item := consumer.get(timeout=1)) is not None:
        taken.append(item)
        consumer.consume()
    # An entry whose answer was lost may be there, and twice when the client tried again.
    assert set(acknowledged) <= set(taken) <= set(attempted)


def test_elections_go_on_after_a_kill(own):
    server, new = own
    led, threads = [], []

    def lead(i):
        led.append(i)
        time.sleep(0.05)

    for i in range(3):
        election = new().Election("/election", f"candidate-{i}")
        threads.append(threading.Thread(target=election.run, args=(lead, i)))
    blocker = new().Lock("/election", "blocker")
    assert blocker.acquire(timeout=5)
    for thread in threads:
        thread.start()
    eventually(lambda: len(blocker.contenders()) == 4)
    server.kill()
    server.start()
    eventually(lambda: blocker.client.connected)
    assert led == []
    blocker.release()
    for thread in threads:
        thread.join(20)
    assert sorted(led) == [0, 1, 2]
