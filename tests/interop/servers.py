"""The server under test as a child process: start and wait until it serves, kill -9, SIGTERM, start again, look at its
memory. There are two kinds: the release binary of Falconer, and, as the oracle that shows whether a test is true, a real
Apache ZooKeeper when ZOOKEEPER_ORACLE=1 (ZOOKEEPER_CLASSPATH names the folder of its jars).
Refuses to touch a process that it has not started.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("FALCONER_BIN", ROOT / "target" / "release" / "falconer"))
ORACLE = os.environ.get("ZOOKEEPER_ORACLE") == "1"
CLASSPATH = os.environ.get("ZOOKEEPER_CLASSPATH", "")
SERVING = "falconer: serving clients on"
START_LIMIT_S = 30


def free_port():
    """A port of the loopback address that nobody listens on at this moment. Below the range of outgoing connections, so
    that none of these takes it before the server does."""
    while True:
        port = random.randrange(20000, 32768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def fresh_dir():
    """A new folder on the disk that `target` is on, so that O_DIRECT is met too."""
    parent = ROOT / "target" / "tmp"
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="interop-", dir=parent))


def four_letters(port, word, timeout_s=5):
    """Sends a four-letter word on a connection of its own; everything that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as sock:
        sock.sendall(word)
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
        return answer.decode()


class Server:
    """One server with its folder. `settings` become lines of a zoo.cfg, unless `config` is its path already; `flags` are
    Falconer's own, and without settings Falconer runs without any file. `prefix` are words before the command. `apache`
    chooses the kind for this server alone, and `java_options` are for that kind."""

    def __init__(self, settings=None, flags=(), home=None, data_dir=None, prefix=(), apache=None, java_options=()):
        self.home = home or fresh_dir()
        self.data_dir = data_dir or self.home / "data"
        self.port = free_port()
        self.settings = settings
        self.config = None
        self.flags = list(flags)
        self.prefix = list(prefix)
        self.apache = ORACLE if apache is None else apache
        self.java_options = list(java_options)
        self.log_file = self.home / "server.log"
        self.log_start = 0
        self.child = None

    @property
    def hosts(self):
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self):
        return self.child.pid

    def write_config(self, settings):
        """Writes the zoo.cfg unless there is one; returns its path."""
        if self.config:
            return self.config
        path = self.home / "zoo.cfg"
        lines = {"dataDir": self.data_dir, "clientPort": self.port, **settings}
        path.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        return path

    def falconer_command(self):
        command = [*self.prefix, str(BINARY), "serve"]
        if self.settings is None and self.config is None:
            command += ["--client-port", str(self.port), "--data-dir", str(self.data_dir)]
        else:
            command.append(str(self.write_config(self.settings)))
        return command + ["--shards", "2", *self.flags]

    def apache_command(self):
        config = self.write_config({"tickTime": 2000, **(self.settings or {})})
        jars = f"{self.home}:{CLASSPATH}/*"
        quiet = ["-Dzookeeper.admin.enableServer=false", "-Dlog4j2.level=WARN", "-Xmx1g", "-XX:+UseSerialGC"]
        return ["java", *quiet, *self.java_options, "-cp", jars, "org.apache.zookeeper.server.ZooKeeperServerMain", str(config)]

    def spawn(self):
        """Starts the process without waiting for anything."""
        assert self.apache or BINARY.exists(), f"{BINARY} is missing: cargo build --release, or set FALCONER_BIN"
        command = self.apache_command() if self.apache else self.falconer_command()
        self.log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    def start(self):
        """Starts the process and waits until clients are served."""
        self.spawn()
        deadline = time.monotonic() + START_LIMIT_S
        while not self.serves():
            assert self.alive(), f"the server ended with {self.child.returncode}:\n{self.log()}"
            assert time.monotonic() < deadline, f"the server does not serve:\n{self.log()}"
            time.sleep(0.01)
        return self

    def serves(self):
        if not self.apache:
            return SERVING in self.log()
        try:
            return "Mode: standalone" in four_letters(self.port, b"srvr")
        except OSError:
            return False

    def alive(self):
        return self.child is not None and self.child.poll() is None

    def log(self):
        """What this start has printed so far."""
        if not self.log_file.exists():
            return ""
        return self.log_file.read_bytes()[self.log_start :].decode(errors="replace")

    def wait(self, timeout_s=20):
        """Waits for the end; the exit code."""
        return self.child.wait(timeout=timeout_s)

    def kill(self):
        """kill -9."""
        self.child.kill()
        self.child.wait()

    def terminate(self):
        """SIGTERM; the exit code and how long it took in seconds."""
        begin = time.monotonic()
        self.child.send_signal(signal.SIGTERM)
        code = self.wait()
        return code, time.monotonic() - begin

    def resident_mib(self):
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("no VmRSS: the process is gone")

    def remove(self):
        """Stops what still runs and removes the folder."""
        if self.alive():
            self.kill()
        shutil.rmtree(self.home, ignore_errors=True)


class Ensemble:
    """Several Falconers, each with a zoo.cfg and a `myid`. Links between them are theirs."""

    def __init__(self, count, settings):
        self.home = fresh_dir()
        ports = [(free_port(), free_port()) for _ in range(count)]
        lines = {f"server.{number}": f"127.0.0.1:{peer}:{election}" for number, (peer, election) in enumerate(ports, 1)}
        self.servers = []
        for number in range(1, count + 1):
            home = self.home / str(number)
            (home / "data").mkdir(parents=True)
            (home / "data" / "myid").write_text(f"{number}\n")
            self.servers.append(Server(settings={**settings, **lines}, home=home, apache=False))

    @property
    def hosts(self):
        return ",".join(server.hosts for server in self.servers)

    def start(self):
        for server in self.servers:
            server.spawn()
        for server in self.servers:
            self.wait_until_serving(server)
        return self

    def wait_until_serving(self, server):
        deadline = time.monotonic() + START_LIMIT_S
        while mode(server) not in ("leader", "follower"):
            assert server.alive(), f"the server ended with {server.child.returncode}:\n{server.log()}"
            assert time.monotonic() < deadline, f"the server does not serve:\n{server.log()}"
            time.sleep(0.02)

    def leader(self):
        """The server that leads; waits for one."""
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            for server in self.servers:
                if server.alive() and mode(server) == "leader":
                    return server
            assert time.monotonic() < deadline, "nobody leads:\n" + "\n".join(server.log() for server in self.servers)
            time.sleep(0.02)

    def remove(self):
        """Stops what still runs and removes the folder."""
        for server in self.servers:
            server.remove()
        shutil.rmtree(self.home, ignore_errors=True)


def mode(server):
    """What a server says it is; empty if it says nothing."""
    try:
        answer = four_letters(server.port, b"srvr", timeout_s=1)
    except OSError:
        return ""
    return next((line.removeprefix("Mode: ") for line in answer.splitlines() if line.startswith("Mode: ")), "")
