"""Four-letter words: the texts that scripts, dashboards and clients take apart, the whitelist, and the end of the
connection.
"""

import re
import socket

import pytest
import wire
from kazoo.client import KazooClient
from servers import four_letters
from wire import *  # noqa: F403

VERSION = r"Zookeeper version: \d+\.\d+\.\d+\S*, built on .+\n"
COUNTERS = (
    r"Latency min/avg/max: \d+/\d+\.\d{1,4}/\d+\nReceived: \d+\nSent: \d+\nConnections: \d+\nOutstanding: \d+\n"
    r"Zxid: 0x[0-9a-f]+\nMode: standalone\nNode count: \d+\n"
)
NOT_LISTED = "{} is not executed because it is not in the whitelist.\n"
WORDS = ["ruok", "srvr", "stat", "mntr", "isro", "conf", "cons", "crst", "dump", "gtmk", "hash", "srst", "wchc", "wchp", "wchs"]
DATE = r"\w{3} \w{3} \d\d \d\d:\d\d:\d\d \w+ \d{4}"
EXPIRE = rf"\d+ expire at {DATE}:\n"


def ask(server, word):
    return four_letters(server.port, word if isinstance(word, bytes) else word.encode())


def mntr(server):
    return dict(line.split("\t") for line in ask(server, "mntr").splitlines())


def test_ruok(server):
    assert ask(server, "ruok") == "imok"


def test_isro(server):
    assert ask(server, "isro") == "rw"


def test_srvr(server, client):
    answer = ask(server, "srvr")
    assert re.fullmatch(VERSION + COUNTERS, answer), answer
    assert int(re.search(r"Zxid: (0x\w+)", answer)[1], 16) == client.call(PING, xid=-2).zxid


def test_stat_lists_clients(server, client):
    answer = ask(server, "stat")
    clients = r"Clients:\n(?: /127\.0\.0\.1:\d+\[\d+\]\(queued=\d+,recved=\d+,sent=\d+\)\n)+\n"
    assert re.fullmatch(VERSION + clients + COUNTERS, answer), answer
    assert f" /127.0.0.1:{client.sock.getsockname()[1]}[" in answer


def test_cons_tells_about_each_connection(server, client, base):
    client.exists(base)
    answer = ask(server, "cons")
    assert answer.endswith(")\n\n")
    port = client.sock.getsockname()[1]
    line = next(line for line in answer.splitlines() if f":{port}[" in line)
    latencies = r"llat=\d+,minlat=\d+,avglat=\d+,maxlat=\d+"
    session = rf"sid=0x{client.hello.session & (2**64 - 1):x},lop=EXIS,est=\d+,to=10000,lcxid=0x1,lzxid=0x[0-9a-f]+,lresp=\d+,{latencies}"
    assert re.fullmatch(rf" /127\.0\.0\.1:{port}\[\d+\]\(queued=\d,recved=2,sent=2,{session}\)", line), line
    # The connection that asks has no session.
    assert re.search(r"\n? /127\.0\.0\.1:\d+\[0\]\(queued=0,recved=1,sent=0\)\n", answer), answer


def test_conf_has_zookeepers_keys(server):
    lines = ask(server, "conf").splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    expected = {
        "clientPort": str(server.port),
        "secureClientPort": "-1",
        "tickTime": "500",
        "maxClientCnxns": "0",
        "minSessionTimeout": "1000",
        "maxSessionTimeout": "10000",
        "serverId": "0",
    }
    assert {key: found.get(key) for key in expected} == expected
    for key in ("dataDir", "dataLogDir"):
        assert found[key].startswith(str(server.data_dir))
    for key in ("dataDirSize", "dataLogSize", "clientPortListenBacklog"):
        assert re.fullmatch(r"-?\d+", found[key])


def test_mntr_has_the_keys_that_dashboards_read(server):
    found = mntr(server)
    assert re.fullmatch(VERSION, f"Zookeeper version: {found['zk_version']}\n")
    assert found["zk_server_state"] == "standalone"
    for key in (
        "avg_latency",
        "max_latency",
        "min_latency",
        "packets_received",
        "packets_sent",
        "num_alive_connections",
        "outstanding_requests",
        "znode_count",
        "watch_count",
        "ephemerals_count",
        "approximate_data_size",
        "open_file_descriptor_count",
        "max_file_descriptor_count",
        "uptime",
    ):
        assert re.fullmatch(r"\d+(\.\d+)?", found["zk_" + key]), key


def test_mntr_counts(server, client, base):
    before = {key: float(value) for key, value in mntr(server).items() if key not in ("zk_version", "zk_server_state")}
    for i in range(10):
        client.create(f"{base}/{i}", b"x" * 100, flags=wire.EPHEMERAL if i % 2 else 0)
    client.get_data(base, watch=True)
    client.exists(base + "/none", watch=True)
    client.children(base, watch=True)
    after = mntr(server)
    grown = {key: float(after[key]) - before[key] for key in before}
    assert grown["zk_znode_count"] == 10
    assert grown["zk_ephemerals_count"] == 5
    assert grown["zk_watch_count"] == 3
    assert grown["zk_approximate_data_size"] == 10 * (100 + len(base) + 2)
    assert grown["zk_packets_received"] >= 13
    assert grown["zk_packets_sent"] >= 13


def test_by_default_only_srvr_is_answered(make_server):
    server = make_server({"tickTime": 500}).start()
    for word in WORDS:
        if word != "srvr":
            assert ask(server, word) == NOT_LISTED.format(word)
    assert ask(server, "stmk") == NOT_LISTED.format("stmk")
    assert "Mode: standalone\n" in ask(server, "srvr")


def test_a_list_of_words(make_server):
    server = make_server({"tickTime": 500, "4lw.commands.whitelist": "ruok, srvr,isro"}).start()
    assert [ask(server, word) for word in ("ruok", "isro", "stat")] == ["imok", "rw", NOT_LISTED.format("stat")]


@pytest.mark.parametrize("tail", [b"\n", b"\r\n", b"\r\n\r\n" * 20])
def test_what_follows_the_word_does_not_cost_the_answer(server, tail):
    """`echo stat | nc`: a reset instead of a plain end would throw the answer away."""
    for _ in range(30):
        assert ask(server, b"ruok" + tail) == "imok"
        assert ask(server, b"srvr" + tail).endswith("\n")


def test_the_end_of_the_answer_does_not_wait_for_the_client(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=3) as sock:
        for byte in b"ruok":
            sock.sendall(bytes([byte]))
        assert sock.recv(100) == b"imok"
        assert sock.recv(100) == b""


@pytest.mark.parametrize("word", [b"abcd", b"RUOK", b"srvx", b"\xff\xf4\xff\xfd"])
def test_other_words_are_closed(raw, word):
    connection = raw()
    connection.send_raw(word)
    assert connection.is_closed()


def test_a_word_behind_the_handshake_is_a_frame(client):
    client.send_raw(b"ruok")
    assert client.is_closed()


def sid(client):
    return f"0x{client.hello.session & (2**64 - 1):x}"


def test_watches_by_session_and_by_path(server, client, base):
    client.get_data(base, watch=True)
    client.exists(base + "/none", watch=True)
    client.children(base, watch=True)
    by_session, by_path = ask(server, "wchc"), ask(server, "wchp")
    assert by_session.endswith("\n\n") and by_path.endswith("\n\n")
    mine = re.search(rf"^{sid(client)}\n((?:\t.*\n)+)", by_session, re.MULTILINE)
    assert sorted(mine[1].split()) == [base, base + "/none"]
    for path in (base, base + "/none"):
        assert re.search(rf"^{path}\n\t{sid(client)}\n", by_path, re.MULTILINE), by_path
    counts = re.fullmatch(r"(\d+) connections watching (\d+) paths\nTotal watches:(\d+)\n", ask(server, "wchs"))
    assert counts and int(counts[3]) >= 2


def test_dump_lists_sessions_nodes_and_connections(server, client, base):
    client.create(base + "/mine", flags=wire.EPHEMERAL)
    answer = ask(server, "dump")
    sessions = rf"SessionTracker dump:\nSession Sets \(\d+\)/\(\d+\):\n(?:{EXPIRE}(?:\t0x[0-9a-f]+\n)*)+"
    # ZooKeeper lists sessions that have no ephemeral nodes any more, too.
    nodes = r"ephemeral nodes dump:\nSessions with Ephemerals \(\d+\):\n(?:0x[0-9a-f]+:\n(?:\t/.*\n)*)+"
    one = r"\tip: /127\.0\.0\.1:\d+ sessionId: 0x[0-9a-f]+\n"
    connections = rf"Connections dump:\nConnections Sets \(\d+\)/\(\d+\):\n(?:{EXPIRE}(?:{one})*)+"
    assert re.fullmatch(sessions + nodes + connections, answer), answer
    assert f"\t{sid(client)}\n" in answer
    assert f"{sid(client)}:\n\t{base}/mine\n" in answer
    assert f"ip: /127.0.0.1:{client.sock.getsockname()[1]} sessionId: {sid(client)}\n" in answer


def test_counters_start_again(server, client, base):
    for _ in range(5):
        client.exists(base)
    assert ask(server, "srst") == "Server stats reset.\n"
    assert int(mntr(server)["zk_packets_received"]) <= 3
    assert ask(server, "crst") == "Connection stats reset.\n"
    port = client.sock.getsockname()[1]
    mine = rf" /127\.0\.0\.1:{port}\[1\]\(queued=0,recved=0,sent=0,sid={sid(client)},lop=NA,.*lresp=0,llat=0,minlat=0,avglat=0,maxlat=0\)\n"
    assert re.search(mine, ask(server, "cons")), ask(server, "cons")


def test_the_trace_mask_is_kept(make_server):
    server = make_server({"tickTime": 500, "4lw.commands.whitelist": "*"}).start()
    assert ask(server, "gtmk") == "306"
    assert ask(server, b"stmk" + (10).to_bytes(8, "big")) == "10"
    assert ask(server, "gtmk") == "10"


def test_hash_lists_digests(server, client, base):
    client.exists(base)
    assert re.fullmatch(r"(?:[0-9a-f]+: -?\d+\n)*", ask(server, "hash"))


def test_kazoo_asks(server):
    zk = KazooClient(hosts=server.hosts, timeout=5)
    zk.start(timeout=10)
    assert zk.command(b"ruok") == "imok"
    assert "Mode: standalone" in zk.command(b"stat")
    zk.stop()
    zk.close()
