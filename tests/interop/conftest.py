"""Fixtures: servers that are stopped and removed at the end whatever happens, sessions, a namespace per test, a time limit
for each test. Refuses to leave a process or a folder behind.
"""

import itertools
import resource
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import servers  # noqa: E402
import wire  # noqa: E402

TIME_LIMIT_S = 30
# Small ticks, so that sessions of one second are possible.
QUICK = {"tickTime": 500, "maxClientCnxns": 0, "4lw.commands.whitelist": "*"}
names = itertools.count(1)


def pytest_configure(config):
    config.addinivalue_line("markers", "time_limit(seconds): how long this test may take, instead of 30 s")
    config.addinivalue_line("markers", "falconer_only(reason): not a statement about ZooKeeper; skipped on the oracle")
    # Servers inherit this.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def pytest_runtest_setup(item):
    marker = item.get_closest_marker("falconer_only")
    if marker and servers.ORACLE:
        pytest.skip(f"Falconer only: {marker.args[0]}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    marker = item.get_closest_marker("time_limit")
    limit_s = marker.args[0] if marker else TIME_LIMIT_S

    def too_late(*_):
        pytest.fail(f"longer than {limit_s} s")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(limit_s)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


class Shared:
    """One server for many tests. A test that brings it down fails; the next one gets a new process."""

    def __init__(self, settings):
        self.server = servers.Server(settings=settings)

    def lend(self):
        if not self.server.alive():
            self.server.start()
        yield self.server
        if not self.server.alive():
            pytest.fail(f"the server ended with {self.server.child.returncode}:\n{self.server.log()[-4000:]}")


@pytest.fixture(scope="session")
def quick_server():
    shared = Shared(QUICK)
    yield shared
    shared.server.remove()


@pytest.fixture
def server(quick_server):
    """A server with small ticks (sessions of 1 to 10 s) and all four-letter words, shared by the tests."""
    yield from quick_server.lend()


@pytest.fixture
def make_server():
    """A function that makes servers of this test's own; not started."""
    made = []

    def make(settings=QUICK, **more):
        made.append(servers.Server(settings=settings, **more))
        return made[-1]

    yield make
    for server in made:
        server.remove()


@pytest.fixture
def connect(server):
    """A function that opens raw sessions on the shared server."""
    opened = []

    def open_one(**fields):
        opened.append(wire.open_session(server.port, **fields))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def raw(server):
    """A function that opens sockets to the shared server without a handshake."""
    opened = []

    def open_one(**options):
        opened.append(wire.Connection(server.port, **options))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def client(connect):
    """One raw session on the shared server."""
    return connect()


@pytest.fixture
def base(server):
    """The path of an existing node that only this test uses."""
    path = f"/t{next(names)}"
    connection = wire.open_session(server.port)
    connection.create(path)
    connection.ok(wire.CLOSE_SESSION)
    connection.close()
    return path
