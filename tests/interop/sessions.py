"""kazoo clients as the tests use them: patient, quick to reconnect, closed at the end.
Refuses to hide a lost session: whoever asks sees every state the client went through.
"""

import logging
import subprocess
import sys
from contextlib import contextmanager

from kazoo.client import KazooClient
from kazoo.retry import KazooRetry

CALL_LIMIT_S = 10
# Servers come and go here; kazoo would tell each of its attempts to reconnect.
logging.getLogger("kazoo").setLevel(logging.ERROR)


def kazoo_client(server, timeout_s=10, chroot="", **options):
    """A started client. `client.states` is what its listener saw, in order."""
    retry = {"max_tries": -1, "delay": 0.05, "max_delay": 0.3, "backoff": 1}
    client = KazooClient(
        hosts=server.hosts + chroot,
        timeout=timeout_s,
        connection_retry=KazooRetry(**retry),
        command_retry=KazooRetry(**retry),
        **options,
    )
    client.states = []
    client.add_listener(client.states.append)
    client.start(timeout=CALL_LIMIT_S)
    return client


def end(client):
    client.stop()
    client.close()


@contextmanager
def frozen_later(server, code, timeout_s=1):
    """Another process with a kazoo client, in which `code` runs with the name `client`; yields the process once the code
    is through. Whoever wants it silent sends SIGSTOP; it prints each state of its client on a line."""
    program = f"""
import sys, time
from kazoo.client import KazooClient
client = KazooClient({server.hosts!r}, timeout={timeout_s})
client.add_listener(lambda state: print(state, flush=True))
client.start()
{code}
print("ready", flush=True)
time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        for line in child.stdout:
            if line == "ready\n":
                break
        else:
            raise AssertionError("the other client ended early")
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
