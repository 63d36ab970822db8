"""What gunicorn.conf.py puts under the streams: the client's socket, and how many connections a turn accepts."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT

# In a process of its own, because the file patches the one that executes it.
SCRIPT = """
import runpy, socket, time
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

# Read piece by piece: nobody is cut, though the kernel says that there is room again long after the limit only.
with socket.create_server(("127.0.0.1", 0)) as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
    theirs = socket.socket()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    theirs.connect(listener.getsockname())
    ours, _ = listener.accept()
kind = config["_ClientSocket"]
client = kind(ours.family, ours.type, ours.proto, fileno=ours.detach())
kind.write_timeout_s = 0.6
sender = gevent.spawn(client.sendall, data)
for _ in range(20):
    gevent.sleep(0.1)
    theirs.recv(8192)
assert not sender.dead, sender.exception
theirs.close()
sender.join(5)
print(type(sender.exception).__name__)
client.close()

# Nobody reads: cut. Whatever the reason, gunicorn gets the one error that it says nothing about.
client, theirs = pair()
kind.write_timeout_s = 0.2
for _ in range(2):
    try:
        client.sendall(data)
    except BrokenPipeError as exc:
        print(exc)
    theirs.close()
client.close()

# The more streams run, the more new connections a turn accepts; what gunicorn sets, stays.
server = config["_Server"](("127.0.0.1", 0), lambda *_: gevent.sleep(60), spawn=Pool(4000))
accepts = [server.max_accept]
for running in (100, 1000):
    while len(server.pool) < running:
        server.pool.spawn(gevent.sleep, 60)
    accepts.append(server.max_accept)
server.max_accept = 1
print(accepts, server.max_accept)
server.pool.kill(block=False)

# A connection that says nothing has less time than one that rests between two requests.
from types import SimpleNamespace

worker = object.__new__(config["StreamWorker"])
worker.cfg = SimpleNamespace(keepalive=75)
client, theirs = pair()
gevent.getcurrent().client = client
limits = [worker.timeout_ctx().seconds]
client.idle = True
limits.append(worker.timeout_ctx().seconds)
worker.cfg.keepalive = 2
print(limits, worker.timeout_ctx().seconds)

# HUP executes the file again: its classes stand on gunicorn's own, not on those before.
again = runpy.run_path("gunicorn.conf.py")
for name in ("_Response", "_Request", "_Errors"):
    assert again[name].__mro__[1] is config[name].__mro__[1]

# Only a peer of forwarded_allow_ips says what a proxy says, whoever was asked about before it.
from gunicorn.config import Config
from gunicorn.http import RequestParser

HEAD = b"GET / HTTP/1.1\\r\\nHost: a\\r\\nX-Forwarded-Proto: https\\r\\n\\r\\n"
cfg = Config()
again["post_worker_init"](SimpleNamespace(cfg=cfg, wsgi=None))
peers = [("10.0.0.1", 1), ("127.0.0.1", 1), ("10.0.0.1", 2), ("127.0.0.1", 2), ("::1", 1, 0, 0), b""]
print([next(RequestParser(cfg, [HEAD], peer)).scheme for peer in peers])
scripts = [HEAD.replace(b"X-Forwarded-Proto", b"SCRIPT_NAME")]
print(["SCRIPT_NAME" in dict(next(RequestParser(cfg, scripts, peer)).headers) for peer in peers])
"""


def test_the_worker_beneath_the_streams() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "BrokenPipeError",
        "[Errno 32] the client is gone: it took nothing for 0.2 s",
        "[Errno 32] the client is gone: [Errno 32] Broken pipe",
        "[10, 50, 200] 1",
        "[15, 75] 2",
        "['http', 'https', 'http', 'https', 'https', 'https']",
        "[False, True, False, True, True, True]",
    ]
