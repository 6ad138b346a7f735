"""The disk from outside: it fills up and gets room again; a byte in it turns over; the last write is torn.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import wire
from wire import *  # noqa: F403

pytestmark = pytest.mark.falconer_only("its own promises about its own files")

MIB = 1 << 20
DISK_MIB = 640
# Nodes of this size, and at most so many: more than fits.
NODE_BYTES = 512 << 10
NODES_MAX = 2 * DISK_MIB


@pytest.fixture
def small_disk():
    """A file system of its own, of DISK_MIB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    point = Path(tempfile.mkdtemp(prefix="falconer-small-disk-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", point], capture_output=True, text=True)
    if mounted.returncode != 0:
        point.rmdir()
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.strip()}")
    yield point
    subprocess.run(["umount", "-l", point], check=True)
    point.rmdir()


def take_all_room(disk):
    """Fills the file system with a file; its path."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(MIB)):
                pass
        except OSError:
            return ballast


def fill(client):
    """Creates nodes until one is refused; how many there are and the code of the refusal."""
    data = os.urandom(NODE_BYTES)
    for number in range(NODES_MAX):
        code = client.code(CREATE, create_record(f"/n{number}", data))
        if code != OK:
            return number, code, data
    raise AssertionError(f"{NODES_MAX * NODE_BYTES // MIB} MiB fit on a disk of {DISK_MIB} MiB")


@pytest.mark.time_limit(90)
def test_a_full_disk_refuses_growth_and_recovers(make_server, small_disk):
    server = make_server(data_dir=small_disk / "data").start()
    client = wire.open_session(server.port)
    client.create("/early", b"early")
    time.sleep(1)
    ballast = take_all_room(small_disk)
    print(f"the server has taken {DISK_MIB - ballast.stat().st_size // MIB} of {DISK_MIB} MiB at rest")
    made, code, data = fill(client)
    print(f"{made} nodes of 512 KiB until the disk was full: {code}")
    assert code == SYSTEM_ERROR
    assert made > 20
    # Reading goes on, in old sessions and in new ones; so does deleting.
    assert client.get_data("/early")[0] == b"early"
    assert client.get_data(f"/n{made - 1}")[0] == data
    assert client.call(PING, xid=-2).err == OK
    for number in range(made // 4):
        client.delete(f"/n{number}")
    assert client.exists("/n0") is None
    assert server.alive()
    # Room comes back.
    ballast.unlink()
    wire.eventually(lambda: client.code(CREATE, create_record("/late", b"late")) == OK, within_s=20, every_s=0.2)
    client.set_data("/early", b"changed")
    server.kill()
    server.start()
    again = wire.open_session(server.port)
    assert again.get_data("/late")[0] == b"late"
    assert again.get_data("/early")[0] == b"changed"
    assert again.exists("/n0") is None
    for number in range(made // 4, made):
        assert again.exists(f"/n{number}").data_length == NODE_BYTES


def wait_until_idle():
    """Long enough for the log to say that its last batch is durable."""
    time.sleep(0.3)


def written(make_server, count=200):
    """A stopped server that has written `count` nodes with a text that can be found in its files."""
    server = make_server().start()
    client = wire.open_session(server.port)
    for number in range(count):
        client.create(f"/n{number}", b"<data of node %06d>" % number)
    wait_until_idle()
    assert server.terminate()[0] == 0
    return server


def find_in_files(server, text):
    """Where a text stands: (path, offset)."""
    for path in sorted(server.data_dir.iterdir()):
        if path.is_file() and (at := path.read_bytes().find(text)) >= 0:
            return path, at
    raise AssertionError(f"{text!r} is in no file: {sorted(server.data_dir.iterdir())}")


def turn_over(path, offset):
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def test_a_damaged_log_is_not_served(make_server):
    server = written(make_server)
    path, offset = find_in_files(server, b"<data of node 000100>")
    turn_over(path, offset + 7)
    before = path.read_bytes()
    server.spawn()
    code = server.wait()
    text = server.log()
    print(text)
    assert code not in (0, -6, -11) and "panicked" not in text, f"{code}: {text}"
    assert path.name in text
    near = [int(number) for number in re.findall(r"\b\d+\b", text)]
    assert any(offset - MIB < number <= offset + 7 for number in near), f"no offset near {offset} in: {text}"
    assert path.read_bytes() == before, "the evidence has been changed"
    turn_over(path, offset + 7)
    server.start()
    client = wire.open_session(server.port)
    assert [client.get_data(f"/n{n}")[0] for n in (0, 100, 199)] == [b"<data of node %06d>" % n for n in (0, 100, 199)]


def test_the_first_and_the_last_durable_write_are_watched_over_too(make_server):
    for number in (0, 199):
        server = written(make_server)
        path, offset = find_in_files(server, b"<data of node %06d>" % number)
        turn_over(path, offset)
        server.spawn()
        assert server.wait() != 0
        assert path.name in server.log()


def test_a_copied_directory_starts_elsewhere(make_server):
    server = written(make_server, 20)
    other = make_server()
    shutil.copytree(server.data_dir, other.data_dir)
    other.start()
    assert wire.open_session(other.port).get_data("/n19")[0] == b"<data of node 000019>"


def test_a_foreign_directory_is_left_alone(make_server):
    server = make_server()
    server.data_dir.mkdir()
    precious = server.data_dir / "log.0000"
    precious.write_text("my notes")
    server.spawn()
    assert server.wait() != 0
    assert str(server.data_dir) in server.log()
    assert precious.read_text() == "my notes"
