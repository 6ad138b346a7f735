"""Java clients: Apache's own ZooKeeper client and Apache Curator's recipes, run by the program in java/ against one server.
The jars come from `.ci/fetch-zookeeper target/zookeeper`, or from ZOOKEEPER_CLASSPATH where that is set.
Refuses to skip for anything but a missing JDK.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import servers

SOURCES = Path(__file__).parent / "java"
CHECKS = [name for file in sorted(SOURCES.glob("*.java")) for name in re.findall(r'checks\.put\("(\w+)"', file.read_text())]
# TTL nodes are off by default in ZooKeeper; what has expired is looked for more often than once in a minute.
SETTINGS = {"tickTime": 500, "maxClientCnxns": 0, "extendedTypesEnabled": "true", "znode.container.checkIntervalMs": 300}
# ZooKeeper takes the interval from a property of its virtual machine and not from zoo.cfg.
FALCONER_ONLY = ["plain_reaped"]
FETCH_LIMIT_S = 900
COMPILE_LIMIT_S = 120
RUN_LIMIT_S = 400


def class_path():
    """The jars, fetched if they are not there yet."""
    if servers.CLASSPATH:
        return f"{servers.CLASSPATH}/*"
    command = [servers.ROOT / ".ci" / "fetch-zookeeper", servers.ROOT / "target" / "zookeeper"]
    fetched = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=FETCH_LIMIT_S, check=True)
    return fetched.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def results():
    """What every check said: its name and `ok` or why it failed."""
    if not (shutil.which("javac") and shutil.which("java")):
        pytest.skip("there is no JDK (Debian: default-jdk-headless)")
    jars = class_path()
    server = servers.Server(settings=SETTINGS)
    try:
        classes = server.home / "classes"
        sources = [str(file) for file in SOURCES.glob("*.java")]
        subprocess.run(["javac", "-d", str(classes), "-cp", jars, *sources], timeout=COMPILE_LIMIT_S, check=True)
        server.start()
        # Without a configuration in the class path log4j prints errors only.
        command = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", f"{classes}:{jars}", "Checks", server.hosts]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=RUN_LIMIT_S)
        assert ran.returncode == 0, ran.stdout
        assert server.alive(), server.log()
        yield dict(line.split(" ", 1) for line in ran.stdout.splitlines())
    finally:
        server.remove()


@pytest.mark.parametrize("check", CHECKS)
def test_java(check, results):
    if servers.ORACLE and check in FALCONER_ONLY:
        pytest.skip("Falconer only: ZooKeeper takes this setting from a property of its virtual machine")
    assert results[check] == "ok"
