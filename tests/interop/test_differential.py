"""Falconer and a real Apache ZooKeeper must answer the same requests alike, see differential.py. Skipped where there is no
ZooKeeper to compare with (ZOOKEEPER_CLASSPATH).
"""

import os

import pytest

import differential
import servers

SECONDS = float(os.environ.get("DIFFERENTIAL_SECONDS", "45"))


@pytest.mark.skipif(not os.environ.get("ZOOKEEPER_CLASSPATH"), reason="ZOOKEEPER_CLASSPATH names no ZooKeeper")
@pytest.mark.skipif(servers.ORACLE, reason="compares both servers itself")
@pytest.mark.time_limit(400)
def test_both_servers_answer_alike():
    reports, coverage, played = differential.explore("1", SECONDS)
    print(coverage.table())
    assert not reports, "\n\n".join(reports)
    assert not coverage.missing()
    assert played > 200
