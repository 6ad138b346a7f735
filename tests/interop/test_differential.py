"""Falconer and a real Apache ZooKeeper must answer the same requests alike, see differential.py: always the same sequences,
unless DIFFERENTIAL_SEED names others, and DIFFERENTIAL_SECONDS how long to go on. Skipped where there is no ZooKeeper to
compare with. Refuses to pass when part of the contract was not met: every error of every opcode and every event of every
kind of watch must have been seen.
"""

import os
import shutil

import differential
import pytest
import servers

SEED = os.environ.get("DIFFERENTIAL_SEED", "1")
SECONDS = float(os.environ.get("DIFFERENTIAL_SECONDS", "0"))
# A minute or so. What is asked for by time need not be the same twice.
SEQUENCES = 0 if SECONDS else 400


@pytest.mark.falconer_only("it starts both kinds of server itself")
@pytest.mark.time_limit(int(SECONDS) + 900)
def test_both_servers_answer_alike():
    if not servers.CLASSPATH:
        pytest.skip("nothing to compare with: ZOOKEEPER_CLASSPATH names no folder of ZooKeeper's jars (.ci/fetch-zookeeper)")
    if not shutil.which("java"):
        pytest.skip("nothing to run ZooKeeper with: there is no java (Debian: default-jre-headless)")
    reports, coverage, played = differential.explore(SEED, SECONDS, SEQUENCES)
    print(coverage.table())
    print(f"{played} steps with seed {SEED}, {len(reports)} disagreements")
    assert not reports, "\n\n".join(reports)
    assert not coverage.missing()
