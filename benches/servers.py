"""Servers that the benchmarks start: Falconer and Apache ZooKeeper, alone or three together, and the canned server.

Each gets a directory of its own and free loopback ports, is started, asked, and stopped by pid. Refuses to leave a
process behind: `stop` kills, and whoever makes a server calls it.
"""

import contextlib
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import time

REPO = pathlib.Path(__file__).resolve().parent.parent
RELEASE = REPO / "target" / "release"
START_TIMEOUT_S = 120
PROBE_TIMEOUT_S = 1  # a server that is still loading may take a connection and forget it
FIRST_PORT, LAST_PORT = 20000, 32000  # below the ports that clients get, so that nobody is given one meanwhile
OPEN_ACL = struct.pack(">ii", 1, 31) + struct.pack(">i", 5) + b"world" + struct.pack(">i", 6) + b"anyone"

CREATE, GET_DATA, SET_DATA, SYNC = 1, 4, 5, 9
NO_NODE, NODE_EXISTS = -101, -110


# ---- the protocol, as much as is needed to see that a server answers

def _string(text):
    return struct.pack(">i", len(text)) + text.encode()


class Client:
    """One session, one request at a time. Every wait is bounded by `timeout_s`."""

    def __init__(self, port, timeout_s=PROBE_TIMEOUT_S, session_timeout_ms=10000):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.sock.settimeout(timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._send(struct.pack(">iqiqi16s?", 0, 0, session_timeout_ms, 0, 16, b"", False))
        reply = self._frame()
        if struct.unpack(">q", reply[8:16])[0] == 0:
            raise ConnectionError("no session")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def _send(self, body):
        self.sock.sendall(struct.pack(">i", len(body)) + body)

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.sock.recv(count - len(data))
            if not part:
                raise ConnectionError("closed")
            data += part
        return data

    def _frame(self):
        return self._exactly(struct.unpack(">i", self._exactly(4))[0])

    def call(self, opcode, body):
        """The error code of the reply."""
        self._send(struct.pack(">ii", 1, opcode) + body)
        return struct.unpack(">iqi", self._frame()[:16])[2]

    def read(self, path):
        return self.call(GET_DATA, _string(path) + b"\0")

    def sync(self):
        return self.call(SYNC, _string("/"))

    def write(self, path, data=b"x"):
        """Sets a node's data, and makes the node if there is none."""
        err = self.call(SET_DATA, _string(path) + struct.pack(">i", len(data)) + data + struct.pack(">i", -1))
        if err == NO_NODE:
            err = self.call(CREATE, _string(path) + struct.pack(">i", len(data)) + data + OPEN_ACL + struct.pack(">i", 0))
        return 0 if err == NODE_EXISTS else err


def four_letters(port, word):
    """What a server answers to a four-letter word; nothing if it does not."""
    answer = b""
    with contextlib.suppress(OSError):
        with socket.create_connection(("127.0.0.1", port), timeout=PROBE_TIMEOUT_S) as sock:
            sock.settimeout(PROBE_TIMEOUT_S)
            sock.sendall(word.encode())
            while part := sock.recv(65536):
                answer += part
    return answer.decode(errors="replace")


_next_port = FIRST_PORT + time.monotonic_ns() // 1000 % (LAST_PORT - FIRST_PORT)


def free_port():
    global _next_port
    while True:
        _next_port = _next_port + 1 if _next_port < LAST_PORT else FIRST_PORT
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", _next_port))
            return _next_port


# ---- servers

class Server:
    """A server process that is started here, its port and its directory. Subclasses say `command`."""

    def __init__(self, name, directory):
        self.name, self.directory, self.process = name, directory, None
        self.port = free_port()
        directory.mkdir(parents=True)

    @property
    def pids(self):
        return [self.process.pid]

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def launch(self):
        """Starts the process and does not wait for it."""
        with open(self.directory / "output", "ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.directory)

    def answers(self, path="/"):
        with contextlib.suppress(OSError, struct.error), Client(self.port) as client:
            return client.read(path) == 0
        return False

    def await_answer(self, path="/"):
        """Returns the seconds until it has answered a read of `path`."""
        begin = time.monotonic()
        while not self.answers(path):
            if self.process.poll() is not None or time.monotonic() - begin > START_TIMEOUT_S:
                tail = (self.directory / "output").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} does not serve {path}:\n{tail}")
            time.sleep(0.005)
        return time.monotonic() - begin

    def start(self, path="/"):
        self.launch()
        return self.await_answer(path)

    def mode(self):
        """What the server says it is: standalone, leader, follower; nothing if it does not answer."""
        found = re.search(r"^Mode: (\w+)", four_letters(self.port, "srvr"), re.MULTILINE)
        return found.group(1) if found else ""

    def stop(self):
        """kill -9: the harshest end, and the quickest."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def live_heap_bytes(self):
        """None where the resident set is the whole truth."""
        return None


ZOO_CFG = ("tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={data}\nclientPort={port}\nclientPortAddress=127.0.0.1\n"
           "maxClientCnxns=0\n4lw.commands.whitelist=*\n")


class ZooKeeper(Server):
    def __init__(self, directory, class_path, heap, name="zookeeper", more_settings=""):
        super().__init__(name, directory)
        self.class_path, self.heap = class_path, heap
        self.settings = "admin.enableServer=false\nclientPortListenBacklog=4096\n" + more_settings

    def command(self):
        # Written when it starts: the peers of an ensemble know each other's ports only then.
        (self.directory / "zoo.cfg").write_text(ZOO_CFG.format(data=self.directory / "data", port=self.port) + self.settings)
        main = "quorum.QuorumPeerMain" if "server." in self.settings else "ZooKeeperServerMain"
        java = ["java", f"-Xmx{self.heap}", "-cp", self.class_path]
        return [*java, f"org.apache.zookeeper.server.{main}", str(self.directory / "zoo.cfg")]

    def live_heap_bytes(self):
        """What a full collection leaves: the memory without the collector's slack. None without a JDK's jcmd."""
        if not shutil.which("jcmd"):
            return None
        self.jcmd("GC.run")
        used = re.search(r"used (\d+)K", self.jcmd("GC.heap_info"))
        return int(used.group(1)) * 1024 if used else None

    def jcmd(self, what):
        return subprocess.run(["jcmd", str(self.process.pid), what], capture_output=True, text=True, timeout=120).stdout


class Falconer(Server):
    def __init__(self, directory, binary, more, name="falconer", settings=None):
        super().__init__(name, directory)
        self.binary, self.more, self.settings = binary, more, settings

    def command(self):
        if self.settings is None:
            return [str(self.binary), "serve", "--client-port", str(self.port), "--data-dir", str(self.directory / "data"), *self.more]
        # An ensemble's server: the same zoo.cfg that ZooKeeper takes.
        (self.directory / "zoo.cfg").write_text(ZOO_CFG.format(data=self.directory / "data", port=self.port) + self.settings)
        return [str(self.binary), "serve", str(self.directory / "zoo.cfg"), *self.more]


class Canned(Server):
    """Answers with frames of the right size and does nothing else: what the sockets cost at least."""

    def __init__(self, directory, size):
        super().__init__("canned", directory)
        self.size = size

    def command(self):
        return [str(RELEASE / "canned-server"), "--port", str(self.port), "--size", str(self.size)]

    def answers(self, path="/"):
        with contextlib.suppress(OSError, struct.error), Client(self.port):
            return True
        return False


# ---- three together

class Ensemble:
    """Servers that make up one service. `make(n, settings)` makes the n-th, from 1 on; `settings` are its lines `server.N`."""

    def __init__(self, name, count, make):
        self.name = name
        peers = {n: (free_port(), free_port()) for n in range(1, count + 1)}
        lines = "".join(f"server.{n}=127.0.0.1:{peer}:{election}\n" for n, (peer, election) in peers.items())
        self.servers = [make(n, lines) for n in peers]
        for n, server in zip(peers, self.servers):
            (server.directory / "data").mkdir(parents=True, exist_ok=True)
            (server.directory / "data" / "myid").write_text(f"{n}\n")

    @property
    def pids(self):
        return [server.process.pid for server in self.servers]

    @property
    def address(self):
        return ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def start(self):
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.await_answer()
        return self

    def leader(self):
        """The server that leads; waits for it."""
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            leaders = [server for server in self.servers if server.mode() == "leader"]
            if len(leaders) == 1:
                return leaders[0]
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} has no leader")

    def stop(self):
        for server in self.servers:
            server.stop()


def falconers(directory, binary, more, count=3):
    def make(n, lines):
        return Falconer(directory / f"falconer-{n}", binary, more, f"falconer {n}", lines)
    return Ensemble("falconer", count, make)


def zookeepers(directory, class_path, heap, count=3):
    def make(n, lines):
        return ZooKeeper(directory / f"zookeeper-{n}", class_path, heap, f"zookeeper {n}", lines)
    return Ensemble("zookeeper", count, make)


def fetch_class_path():
    fetch = REPO / ".ci" / "fetch-zookeeper"
    done = subprocess.run([str(fetch), str(REPO / "target" / "zookeeper")], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0 or not done.stdout.strip():
        sys.exit(f"{pathlib.Path(sys.argv[0]).name}: .ci/fetch-zookeeper failed")
    return done.stdout.strip().splitlines()[-1]
