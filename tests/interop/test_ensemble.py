"""kazoo and Curator against three servers whose leader is killed with -9 again and again: what was acknowledged is there,
a lock has one holder, no session is lost. The servers run with a zoo.cfg and a `myid` each, as ZooKeeper's do.
"""

import shutil
import subprocess
import threading
import time

import pytest
import servers
from kazoo.client import KazooState
from kazoo.exceptions import BadVersionError, KazooException
from sessions import end, kazoo_client
from test_java import COMPILE_LIMIT_S, SOURCES, class_path

pytestmark = pytest.mark.falconer_only("a few seconds without a leader; ZooKeeper on this machine takes longer")

SETTINGS = {"tickTime": 500, "initLimit": 20, "syncLimit": 10, "maxClientCnxns": 0, "4lw.commands.whitelist": "*"}
KILLS = 4


@pytest.fixture
def ensemble():
    made = servers.Ensemble(3, SETTINGS)
    yield made.start()
    made.remove()


@pytest.fixture
def client_of(ensemble):
    clients = []

    def new():
        clients.append(kazoo_client(ensemble, timeout_s=8))
        return clients[-1]

    yield new
    for client in clients:
        end(client)


def kill_leaders(ensemble, times):
    """Kills the leader, waits for the next one, starts the old one again; `times` times."""
    for _ in range(times):
        time.sleep(1)
        leader = ensemble.leader()
        leader.kill()
        ensemble.leader()
        leader.spawn()
        ensemble.wait_until_serving(leader)


@pytest.mark.time_limit(120)
def test_kazoo_counts_and_locks_while_leaders_die(ensemble, client_of):
    clients = [client_of() for _ in range(3)]
    clients[0].create("/counter", b"0")
    stop, sure, unsure, inside, most, failures = threading.Event(), [], [], [], [], []

    def work(client, name):
        try:
            lock = client.Lock("/lock", name)
            while not stop.is_set():
                try:
                    if not lock.acquire(timeout=20):
                        continue
                except KazooException:
                    continue
                inside.append(name)
                most.append(len(inside))
                try:
                    value, stat = client.get("/counter")
                    client.set("/counter", b"%d" % (int(value) + 1), version=stat.version)
                    sure.append(name)
                except BadVersionError as error:
                    failures.append(error)
                except KazooException:
                    unsure.append(name)
                inside.remove(name)
                try:
                    lock.release()
                except KazooException:
                    pass
        except Exception as error:  # a thread's end is not an end of the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(client, f"w{i}")) for i, client in enumerate(clients)]
    for thread in threads:
        thread.start()
    kill_leaders(ensemble, KILLS)
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join(40)
        assert not thread.is_alive()
    reader = client_of()
    reader.sync("/counter")
    counted = int(reader.get("/counter")[0])
    print(f"{len(sure)} entries, {len(unsure)} of unknown fate, counted {counted}")
    assert failures == [] and max(most) == 1
    assert len(sure) <= counted <= len(sure) + len(unsure) and len(sure) > 20
    assert all(KazooState.LOST not in client.states for client in clients)


@pytest.mark.time_limit(1200)
def test_curators_mutex_has_one_holder_while_leaders_die(ensemble):
    if not (shutil.which("javac") and shutil.which("java")):
        pytest.skip("there is no JDK (Debian: default-jdk-headless)")
    jars = class_path()
    classes = ensemble.home / "classes"
    sources = [str(file) for file in SOURCES.glob("*.java")]
    subprocess.run(["javac", "-d", str(classes), "-cp", jars, *sources], timeout=COMPILE_LIMIT_S, check=True)
    command = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", f"{classes}:{jars}", "Failover", ensemble.hosts]
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        said = []
        for line in running.stdout:
            said.append(line)
            if line == "working\n":
                break
        assert said[-1:] == ["working\n"], "".join(said)
        kill_leaders(ensemble, KILLS)
        # Its standard input ends, and so does the work.
        said += running.communicate(timeout=120)[0].splitlines(keepends=True)
    finally:
        running.kill()
        running.wait()
    result, *why = said[-1].split(maxsplit=1)
    assert result == "ok" and int(why[0]) > 20, "".join(said)
    # ZooKeeper's client takes the list of servers apart, and complains in the log about what it does not like.
    assert not any("ConfigException" in line for line in said), "".join(said)
