"""Quotas: what is counted and where, what is refused and in which order, before and after a restart."""

import pytest
import wire
from conftest import QUICK
from kazoo import exceptions
from sessions import end, kazoo_client
from wire import *  # noqa: F403

HOME = "/zookeeper/quota"
QUOTA_EXCEEDED = -125
ENFORCED = {**QUICK, "enforceQuota": "true"}


def bound(client, top, limits):
    """Bounds the subtree `top` as ZooKeeper's command line does."""
    path = HOME
    for name in top.strip("/").split("/"):
        path += "/" + name
        if client.exists(path) is None:
            client.create(path)
    client.create(path + "/zookeeper_limits", limits)
    client.create(path + "/zookeeper_stats", limits)


def used(client, top):
    return client.get_data(f"{HOME}{top}/zookeeper_stats")[0].decode()


@pytest.fixture
def base(server, base):
    """As everywhere, and the quotas below it go with the test."""
    yield base
    client = wire.open_session(server.port)

    def remove(path):
        for name in client.children(path)[0]:
            remove(f"{path}/{name}")
        client.delete(path)

    if client.exists(HOME + base) is not None:
        remove(HOME + base)
    client.ok(wire.CLOSE_SESSION)
    client.close()


@pytest.fixture
def enforced(make_server):
    """A server that enforces quotas, and a session on it."""
    server = make_server(ENFORCED).start()
    client = wire.open_session(server.port)
    yield server, client
    client.close()


def test_sums_follow_every_change(client, base):
    client.create(base + "/early", b"12345")
    bound(client, base, b"count=100,bytes=1000")
    assert used(client, base) == "count=2,bytes=5"
    client.create(base + "/early/below", b"678", flags=wire.EPHEMERAL)
    assert used(client, base) == "count=3,bytes=8"
    client.set_data(base + "/early", b"1")
    assert used(client, base) == "count=3,bytes=4"
    client.delete(base + "/early/below")
    assert used(client, base) == "count=2,bytes=1"
    assert client.exists(base + "x") is None
    client.create(base + "x", b"not below")
    assert used(client, base) == "count=2,bytes=1"


def test_the_end_of_a_session_counts(client, connect, base):
    bound(client, base, b"count=100,bytes=1000")
    other = connect()
    for i in range(5):
        other.create(f"{base}/{i}", b"ab", flags=wire.EPHEMERAL)
    assert used(client, base) == "count=6,bytes=10"
    other.ok(wire.CLOSE_SESSION)
    assert used(client, base) == "count=1,bytes=0"


def test_keeping_sums_is_no_change_of_the_node(client, base):
    bound(client, base, b"count=100,bytes=1000")
    stats = f"{HOME}{base}/zookeeper_stats"
    _, before = client.get_data(stats, watch=True)
    client.create(base + "/a", b"x")
    data, after = client.get_data(stats)
    assert data == b"count=2,bytes=1"
    assert (after.version, after.mzxid, after.mtime) == (before.version, before.mzxid, before.mtime)
    assert client.take_events() == []


def test_without_the_setting_nothing_is_refused(client, base):
    bound(client, base, b"count=1,bytes=1=;byteHardLimit=1;countHardLimit=1")
    client.create(base + "/a", b"much more than that")
    assert used(client, base) == "count=2,bytes=19"


def test_only_the_innermost_counts(client, base):
    client.create(base + "/in")
    bound(client, base, b"count=100,bytes=1000")
    bound(client, base + "/in", b"count=100,bytes=1000")
    client.create(base + "/in/a", b"123")
    client.create(base + "/a", b"4567")
    assert (used(client, base), used(client, base + "/in")) == ("count=3,bytes=4", "count=2,bytes=3")


def test_hard_limits_refuse(enforced):
    _, client = enforced
    client.create("/q", b"")
    bound(client, "/q", b"count=1,bytes=1=;byteHardLimit=10;countHardLimit=3")
    client.create("/q/a", b"12345")
    client.create("/q/b", b"12345")
    assert client.code(wire.CREATE, create_record("/q/c")) == QUOTA_EXCEEDED
    assert client.code(wire.CREATE, create_record("/q/a")) == wire.NODE_EXISTS
    assert client.code(wire.SET_DATA, set_data_record("/q/a", b"123456", 7)) == QUOTA_EXCEEDED
    assert client.code(wire.SET_DATA, set_data_record("/q/a", b"54321", 7)) == wire.BAD_VERSION
    client.set_data("/q/a", b"54321")
    assert used(client, "/q") == "count=3,bytes=10"
    client.delete("/q/b")
    client.create("/q/c", b"x")
    assert used(client, "/q") == "count=3,bytes=6"
    # Other limits replace these, and none are left when their node is gone.
    client.set_data(f"{HOME}/q/zookeeper_limits", b"count=-1,bytes=-1,countHardLimit=4")
    client.create("/q/d", bytes(100))
    assert client.code(wire.CREATE, create_record("/q/e")) == QUOTA_EXCEEDED
    client.delete(f"{HOME}/q/zookeeper_limits")
    client.create("/q/e")


def test_soft_limits_do_not(enforced):
    _, client = enforced
    client.create("/q", b"")
    bound(client, "/q", b"count=1,bytes=1")
    client.create("/q/a", b"123")
    assert used(client, "/q") == "count=2,bytes=3"


def test_sums_and_limits_survive(enforced):
    server, client = enforced
    client.create("/q", b"")
    bound(client, "/q", b"count=-1,bytes=-1,countHardLimit=2")
    client.create("/q/a", b"123")
    server.kill()
    server.start()
    again = wire.open_session(server.port)
    assert used(again, "/q") == "count=2,bytes=3"
    assert again.code(wire.CREATE, create_record("/q/b")) == QUOTA_EXCEEDED
    again.close()


@pytest.mark.falconer_only("ZooKeeper looks at what is applied and overshoots")
def test_writes_in_flight_do_not_overshoot(enforced):
    _, client = enforced
    client.create("/q", b"")
    bound(client, "/q", b"count=-1,bytes=-1,countHardLimit=51")
    xids = [client.send(wire.CREATE, create_record(f"/q/{i}")) for i in range(100)]
    codes = [client.receive_reply().err for _ in xids]
    assert (codes.count(0), codes.count(QUOTA_EXCEEDED)) == (50, 50)
    assert used(client, "/q") == "count=51,bytes=0"


def test_kazoo_is_told(enforced):
    server, client = enforced
    client.create("/q", b"")
    bound(client, "/q", b"count=-1,bytes=-1,countHardLimit=1")
    zk = kazoo_client(server)
    with pytest.raises(exceptions.QuotaExceededError):
        zk.create("/q/a")
    assert zk.get_children("/q") == []
    end(zk)
