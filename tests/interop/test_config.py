"""Starting and stopping: a zoo.cfg as people have it, and what an operator reads when something is wrong: one clear line.
"""

import base64
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
import servers
import wire
from wire import *  # noqa: F403

ordinary_wording = pytest.mark.falconer_only("its own words and exit codes")

LIVED_IN = """# The number of milliseconds of each tick
tickTime=2000
initLimit=10
  syncLimit = 5
! an old comment

dataDir={data}
dataLogDir={log}
clientPort={port}
clientPortAddress=127.0.0.1
maxClientCnxns = 60
minSessionTimeout=4000
maxSessionTimeout: 40000
autopurge.snapRetainCount=5
autopurge.purgeInterval=24
snapCount=100000
preAllocSize=65536
globalOutstandingLimit=1000
admin.enableServer=false
4lw.commands.whitelist=mntr,conf,ruok,srvr
zookeeper.extendedTypesEnabled=true
DigestAuthenticationProvider.superDigest={super}
"""


def super_digest():
    return "super:" + base64.b64encode(hashlib.sha1(b"super:secret").digest()).decode()


def fails(server, limit_s=20):
    """Starts a server that must not come up; what it says. It says it in time, once, and exits with an error."""
    server.spawn()
    code = server.wait(limit_s)
    text = server.log()
    assert code not in (0, -6, -11), f"exit code {code}:\n{text}"
    assert "panicked" not in text, text
    return text


@pytest.fixture
def file_server(make_server):
    """A function that makes a server (not started) with this text as its zoo.cfg."""

    def make(text):
        server = make_server()
        server.config = server.home / "zoo.cfg"
        places = {"data": server.data_dir, "log": server.home / "log", "port": server.port}
        server.config.write_text(text.format(**places, super=super_digest()))
        return server

    return make


def test_a_zoo_cfg_as_people_have_it(file_server):
    server = file_server(LIVED_IN).start()
    client = wire.open_session(server.port, timeout_ms=1)
    assert client.hello.timeout_ms == 4000
    conf = servers.four_letters(server.port, b"conf")
    for line in (f"clientPort={server.port}", "tickTime=2000", "maxClientCnxns=60", "minSessionTimeout=4000", "maxSessionTimeout=40000"):
        assert line + "\n" in conf
    client.create("/kept", b"x")
    client.create("/closed", acl=[(31, "ip", "10.0.0.1")])
    assert client.code(GET_DATA, path_watch("/closed")) == NO_AUTH
    client.auth("digest", b"super:secret")
    client.set_data("/closed", b"super")
    assert any(server.data_dir.iterdir()) and any((server.home / "log").iterdir())
    server.kill()
    server.start()
    assert wire.open_session(server.port).get_data("/kept")[0] == b"x"


@ordinary_wording
def test_keys_without_effect_are_named_in_a_warning(file_server):
    server = file_server(LIVED_IN).start()
    for key in ("preAllocSize", "admin.enableServer"):
        assert key in server.log()


def test_connections_per_address_are_limited(make_server):
    server = make_server({"tickTime": 2000, "maxClientCnxns": 3}).start()
    held = [wire.open_session(server.port) for _ in range(3)]
    refused = wire.Connection(server.port)
    try:
        refused.send_frame(refused.handshake_record())
    except ConnectionError:
        pass
    assert refused.is_closed()
    held[0].ok(CLOSE_SESSION)
    assert held[0].is_closed()
    held[0].close()

    def another():
        try:
            return wire.open_session(server.port)
        except (wire.Closed, ConnectionError):
            return None

    wire.eventually(another)


def test_permissions_can_be_switched_off(make_server):
    server = make_server({"tickTime": 2000, "skipACL": "yes"}).start()
    client = wire.open_session(server.port)
    client.create("/closed", b"x", acl=[(31, "ip", "10.0.0.1")])
    assert client.get_data("/closed")[0] == b"x"


@pytest.mark.falconer_only("ZooKeeper ignores this key in a zoo.cfg")
def test_the_largest_frame_can_be_set(make_server):
    server = make_server({"tickTime": 2000, "jute.maxbuffer": 4 << 20}).start()
    client = wire.open_session(server.port)
    client.create("/big", b"x" * (3 << 20))
    assert len(client.get_data("/big")[0]) == 3 << 20
    client.send(SET_DATA, set_data_record("/big", b"x" * (4 << 20)))
    with pytest.raises((wire.Closed, ConnectionError, AssertionError)):
        assert client.receive_reply().err == 0


@ordinary_wording
def test_without_a_file_everything_has_a_default(make_server):
    server = make_server(None).start()
    assert f"falconer: serving clients on 127.0.0.1:{server.port}" in server.log()
    client = wire.open_session(server.port)
    assert client.code(CREATE_TTL, ttl_record("/ttl", 60000)) == OK


@ordinary_wording
@pytest.mark.parametrize(
    "line, parts",
    [
        ("tikTime=2000", ["tikTime"]),
        ("zookeeper.nosuch.thing=1", ["nosuch.thing"]),
        ("tickTime=often", ["tickTime", "often"]),
        ("clientPort=123456", ["clientPort", "123456"]),
        ("4lw.commands.whitelist=ruok,nosuch", ["4lw.commands.whitelist"]),
    ],
)
def test_a_mistake_names_file_line_and_key(file_server, line, parts):
    server = file_server("# first\n\ndataDir={data}\n" + line + "\n")
    text = fails(server)
    for part in [f"{server.home}/zoo.cfg:4", *parts]:
        assert part in text, text


@ordinary_wording
def test_a_missing_file_is_named(make_server):
    server = make_server()
    server.config = server.home / "none.cfg"
    assert str(server.config) in fails(server)


@ordinary_wording
def test_who_is_one_of_several_must_be_said(file_server):
    text = fails(file_server(LIVED_IN + "server.1=a:2888:3888\nserver.2=b:2888:3888\nserver.3=c:2888:3888\n"))
    assert "myid" in text and "zoo.cfg:" in text, text


@ordinary_wording
def test_a_taken_port_is_named(make_server):
    first, second = make_server().start(), make_server()
    second.port = first.port
    assert str(first.port) in fails(second)
    assert first.alive()


@ordinary_wording
def test_a_port_taken_by_somebody_else_is_named(make_server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = make_server()
        server.port = taken.getsockname()[1]
        assert str(server.port) in fails(server)


@ordinary_wording
def test_a_directory_in_use_names_the_process(make_server):
    first = make_server().start()
    second = make_server(data_dir=first.data_dir)
    text = fails(second)
    assert str(first.pid) in text and str(first.data_dir) in text
    first.kill()
    second.start()


@pytest.fixture
def as_nobody():
    """The words before a command that make it run as nobody, and a folder of nobody's."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv to run the server as somebody else")
    prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if not servers.ORACLE and subprocess.run([*prefix, "test", "-x", servers.BINARY]).returncode != 0:
        pytest.skip(f"nobody may not run {servers.BINARY}")
    home = Path(tempfile.mkdtemp(prefix="falconer-nobody-"))
    os.chown(home, 65534, 65534)
    yield prefix, home
    shutil.rmtree(home)


@ordinary_wording
def test_root_is_not_needed(make_server, as_nobody):
    prefix, home = as_nobody
    server = make_server(None, data_dir=home, prefix=prefix).start()
    wire.open_session(server.port).create("/a")


@ordinary_wording
def test_a_directory_without_permission_is_named(make_server, as_nobody):
    prefix, home = as_nobody
    os.chown(home, 0, 0)
    home.chmod(0o755)
    assert str(home) in fails(make_server(None, data_dir=home, prefix=prefix))
    assert list(home.iterdir()) == []


@ordinary_wording
def test_a_directory_that_is_a_file_is_named(make_server):
    server = make_server(None)
    server.data_dir = server.home / "file"
    server.data_dir.write_text("not a directory")
    assert str(server.data_dir) in fails(server)


@ordinary_wording
def test_sigterm_ends_with_0_within_a_second(make_server):
    server = make_server().start()
    clients = [wire.open_session(server.port) for _ in range(20)]
    for number, client in enumerate(clients):
        client.create(f"/n{number}", b"x" * 1000)
        client.send(SET_DATA, set_data_record(f"/n{number}", b"y"))
    code, took_s = server.terminate()
    print(f"SIGTERM: exit code {code} after {took_s:.3f} s")
    assert code == 0
    assert took_s < 1.0
    for client in clients:
        with pytest.raises((wire.Closed, ConnectionError)):
            while client.receive_any():
                pass
    server.start()
    client = wire.open_session(server.port)
    assert len([name for name in client.children("/")[0] if name.startswith("n")]) == 20
