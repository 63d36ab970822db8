"""What gunicorn.conf.py puts under the streams: the client's socket, and how many connections a turn accepts."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT

# In a process of its own, because the file patches the one that executes it.
SCRIPT = """
import runpy, socket
config = runpy.run_path("gunicorn.conf.py")
import gevent
from gevent.pool import Pool


def pair():
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    client = config["_ClientSocket"](ours.family, ours.type, ours.proto, fileno=ours.detach())
    return client, theirs

# More than the kernel takes at once, to a reader that lags: all of it, in order.
client, theirs = pair()
data = bytes(range(256)) * 20_000
received = bytearray()

def read():
    while len(received) < len(data):
        received.extend(theirs.recv(70_000))
        gevent.sleep(0)

reader = gevent.spawn(read)
for start in range(0, len(data), 300_000):
    client.sendall(data[start : start + 300_000])
reader.join(20)
assert bytes(received) == data
client.sendall(b"")
client.close()
theirs.close()

# Nobody reads: the socket's timeout holds, and a closed one is an error.
client, theirs = pair()
client.settimeout(0.1)
try:
    client.sendall(data)
except TimeoutError:
    print("timed out")
theirs.close()
try:
    client.sendall(data)
except OSError:
    print("closed")
client.close()

# The more streams run, the more new connections a turn accepts; what gunicorn sets, stays.
server = config["_Server"](("127.0.0.1", 0), lambda *_: gevent.sleep(60), spawn=Pool(4000))
accepts = [server.max_accept]
for running in (400, 1000):
    while len(server.pool) < running:
        server.pool.spawn(gevent.sleep, 60)
    accepts.append(server.max_accept)
server.max_accept = 1
print(accepts, server.max_accept)
server.pool.kill(block=False)

# HUP executes the file again: its response stands on gunicorn's own, not on the one before.
again = runpy.run_path("gunicorn.conf.py")
assert again["_Response"].__mro__[1] is config["_Response"].__mro__[1]
"""


def test_the_worker_beneath_the_streams() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["timed out", "closed", "[10, 50, 100] 1", ""]
