"""How gunicorn runs Sluiceway: `gunicorn wsgi:app` reads this file by itself; GUNICORN_CMD_ARGS overrides any setting.

The master never imports `app` (nor anything of it), or a HUP would reload workers with the old code still in place.
"""

# Before every other import, in the master. A gevent worker patches by itself, but only after the fork: with
# preload_app the app's modules would be there unpatched already, and TLS fails in them.
from gevent import monkey

monkey.patch_all()

import atexit
import contextlib
import email.utils
import errno
import functools
import gc
import ipaddress
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import gevent
import gevent.socket
import gunicorn.http.message
import gunicorn.http.parser
import gunicorn.http.wsgi
import gunicorn.util
from gevent.server import StreamServer
from gunicorn.workers import ggevent
from gunicorn.workers.ggevent import GeventWorker


class _ClientSocket(gevent.socket.socket):
    """Sends first and asks later. gevent's own `sendall` asks the kernel for the size of its buffer before every piece;
    a token fits into it, so that is one system call of four for each (measured: bench/PROFILE.md).

    Whatever ends the connection is a `BrokenPipeError` here, or a `ConnectionResetError` where it shows in reading: for
    every other `OSError` gunicorn logs a traceback, and that a client vanished (`ETIMEDOUT`) is nothing to look into.
    """

    __slots__ = ("idle",)

    idle: bool  # an answer was given, and nothing of a next request is here; unset before the first

    write_timeout_s = 60.0  # a client that takes nothing for so long is cut; set from [server] write_timeout_s

    def sendall(self, data: bytes, flags: int = 0) -> None:
        try:
            try:
                sent = self._sock.send(data, flags)
            except BlockingIOError:
                sent = 0
            if sent < len(data):
                self._send_slowly(memoryview(data)[sent:], flags)
        except OSError as exc:
            raise BrokenPipeError(errno.EPIPE, f"the client is gone: {exc}") from exc

    def _send_slowly(self, data: memoryview, flags: int) -> None:
        """To a client slower than its stream. The kernel wakes us when a third of its buffer is free (of a unix
        socket's, three quarters), for which a slow reader may need minutes; but it takes more as soon as anything is
        free. So that is tried now and then, and a client has stopped when for so long nothing goes."""
        took_at = time.monotonic()
        while data:
            gevent.socket.wait(self._write_event, self.write_timeout_s / 4, False)
            try:
                data = data[self._sock.send(data, flags) :]
                took_at = time.monotonic()
            except BlockingIOError:
                if time.monotonic() - took_at >= self.write_timeout_s:
                    raise TimeoutError(f"it took nothing for {self.write_timeout_s:g} s") from None

    def recv(self, *args: Any) -> bytes:
        try:
            data: bytes = super().recv(*args)
        except BlockingIOError:  # of a WebSocket, which does not wait in here
            raise
        except OSError as exc:
            raise ConnectionResetError(errno.ECONNRESET, f"the client is gone: {exc}") from exc
        self.idle = False
        return data


def _plain(kind: Any) -> Any:
    """gunicorn's own: HUP executes this file again, and would put ours on top of ours."""
    return next(one for one in kind.__mro__ if one.__module__ == "gunicorn.http.wsgi")


class _Response(_plain(gunicorn.http.wsgi.Response)):  # type: ignore[misc]
    """Writes a chunk in one step, and the first one together with the headers.

    gunicorn's own `write` goes through five functions for each, to check what is settled once the headers are sent. It
    has no setting for this but the class.
    """

    draining = False  # set on the class, when its worker is about to end

    def default_headers(self) -> list[str]:
        # Asked when the headers are sent. gunicorn itself decides when the request has been read, which for a stream's
        # error may be long before; a client that is told `Connection: close` sends nothing into a connection's end.
        if self.draining:
            self.force_close()
        return super().default_headers()

    def write(self, arg: bytes) -> None:
        if not (self.chunked and arg and isinstance(arg, bytes)):
            super().write(arg)
            return
        head = b""
        if not self.headers_sent:
            lines = [*self.default_headers(), *(f"{name}: {value}\r\n" for name, value in self.headers), "\r\n"]
            head = "".join(lines).encode("latin-1")
            self.headers_sent = True
        self.sent += len(arg)
        self.sock.sendall(b"%b%x\r\n%b\r\n" % (head, len(arg), arg))

    unsent = b""  # what `write_at_once` has left

    def write_at_once(self, data: bytes) -> bool:
        """From the event loop, once the headers are sent: whether all of it is gone. What is not, and what breaks, is
        for `write_rest`."""
        self.sent += len(data)
        chunk = b"%x\r\n%b\r\n" % (len(data), data)
        try:
            sent = self.sock._sock.send(chunk)
        except OSError:
            sent = 0
        if sent == len(chunk):
            return True
        self.unsent = chunk[sent:]
        return False

    def write_rest(self) -> None:
        rest, self.unsent = self.unsent, b""
        self.sock.sendall(rest)


class _Body:
    """What gunicorn iterates, where the app gave a body that can do more than be iterated (`write_each`): between two
    pieces it writes by itself, from the event loop, without waking this greenlet for every token (bench/PROFILE.md)."""

    def __init__(self, body: Any, response: _Response) -> None:
        self._body = body
        self._pieces = iter(body)
        self._response = response

    def __iter__(self) -> "_Body":
        return self

    def __next__(self) -> bytes:
        response = self._response
        if response.headers_sent and response.chunked and type(response.sock) is _ClientSocket:
            self._body.write_each(response.write_at_once)
            while response.unsent:  # and not another piece before it
                response.write_rest()
                self._body.write_each(response.write_at_once)
        piece: bytes = next(self._pieces)
        return piece

    def close(self) -> None:
        self._body.close()


class _App:
    """The app, as gunicorn calls it. Only here a body is known to reach the client as it is: no middleware follows."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        body = self.app(environ, start_response)
        response = getattr(start_response, "__self__", None)
        return _Body(body, response) if hasattr(body, "write_each") and type(response) is _Response else body


gunicorn.http.wsgi.Response = _Response


class _Errors(_plain(gunicorn.http.wsgi.WSGIErrorsWrapper)):  # type: ignore[misc]
    """`wsgi.errors`, which finds out where to write when something is written, not for every request."""

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg

    def write(self, data: Any) -> None:
        super().__init__(self._cfg)
        super().write(data)


gunicorn.http.wsgi.WSGIErrorsWrapper = _Errors


@functools.lru_cache(maxsize=1)
def _date(second: int) -> str:
    return email.utils.formatdate(second, usegmt=True)


def _http_date(timestamp: float | None = None) -> str:
    return _date(int(time.time() if timestamp is None else timestamp))


gunicorn.util.http_date = _http_date  # formatted once a second


class _Request(gunicorn.http.message.Request):
    """Asks once for each address whether it may say what a proxy says (`forwarded_allow_ips`): to find that out takes
    as long as to parse the rest of a short head."""

    def _peer_is_trusted_proxy(self) -> bool:
        if not isinstance(self.peer_addr, tuple):
            return bool(super()._peer_is_trusted_proxy())
        trusted = _trusted.get(self.peer_addr[0])
        if trusted is None:
            if len(_trusted) >= 1000:
                _trusted.clear()
            trusted = _trusted[self.peer_addr[0]] = bool(super()._peer_is_trusted_proxy())
        return trusted


_trusted: dict[str, bool] = {}
gunicorn.http.parser.RequestParser.mesg_class = _Request


class _Server(StreamServer):
    """Accepts as many connections in a turn of the loop as the streams that are running can bear.

    A new request costs as much as dozens of tokens, which wait for it. With few streams, whose turns are short,
    gevent's 100 at a time are felt (200 paced streams: p99 of 21 ms, and 12 so). With many a turn is long anyway, and
    accepting by ten leaves the newest waiting for seconds: of 1,000 that come at once, the last then begins after 1.0 s
    (0.96 with half as many as are running, 1.04 with an eighth). With several workers gunicorn sets 1, so that they
    share.
    """

    started_here: ClassVar[list["_Server"]] = []  # by this worker, one for each address

    _fixed: int | None = None

    def start(self) -> None:
        self.started_here.append(self)
        super().start()

    @property
    def max_accept(self) -> int:
        running = self.pool.size - self.pool.free_count() if self.pool is not None else 0
        return self._fixed or min(max(running // 2, 10), 200)

    @max_accept.setter
    def max_accept(self, value: int) -> None:
        self._fixed = value


ggevent.StreamServer = _Server


class _Named:
    """What gunicorn asks of the listener of a connection, whose greenlet may begin only when that is closed already: in
    a reload under load its client would be reset."""

    def __init__(self, name: Any) -> None:
        self._name = name

    def getsockname(self) -> Any:
        return self._name


_HEAD_S = 15  # for a request's head, from the connection or its first byte on


class StreamWorker(GeventWorker):
    """gunicorn's gevent worker, with `_ClientSocket` under plain connections (TLS keeps its own), and an end that cuts
    nobody off:

        at once         /readyz says it; connections that wait for a next request are ended
        1 s later       so are those that wait for a first one; nothing is accepted any more
        drain_s later   the streams still open end, each with its last event; at once on QUIT (Ctrl-C)
        no connection   the process exits, within a second (gunicorn's `run` looks once a second), unless a stream that
                        can be resumed goes on without one

    Until the streams' end every request that gets here is answered.
    """

    drain_s = 0.0  # set from [server] drain_s

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._drainer: gevent.Greenlet | None = None
        self._hurried = False
        self._done = False
        self._busy = 0  # connections with a request that is being answered
        self._waiting: dict[Any, float] = {}  # the others, and since when: sockets
        self._listeners: dict[Any, _Named] = {}
        super().__init__(*args, **kwargs)

    @property
    def alive(self) -> bool:
        """What gunicorn sets to False when the worker is to end, for whichever reason (a signal, max_requests, a
        changed file). Nothing else tells of all of them."""
        return self._alive

    @alive.setter
    def alive(self, value: bool) -> None:
        self._alive = value
        if not value and self._drainer is None:
            # In a greenlet of its own: a signal's handler runs in whichever is running, the hub too, and must not wait.
            self._drainer = gevent.spawn(self._drain)

    def _drain(self) -> None:
        began = time.monotonic()
        ended = False
        _Response.draining = True
        sluiceway = _sluiceway(self)
        if sluiceway is not None:
            sluiceway.drain()
        while not self._done:
            self._end_waiting(began)
            if sluiceway is not None and not ended and (self._hurried or time.monotonic() - began >= self.drain_s):
                ended = True
                for server in _Server.started_here:
                    server.close()  # in a reload, what comes from now on is the next worker's; this one would refuse it
                sluiceway.end_streams()
            gevent.sleep(0.05)

    def _end_waiting(self, began: float) -> None:
        """End the connections that wait for a request. Left alone, one holds up the exit for `keepalive` seconds."""
        now = time.monotonic()
        for client, since in tuple(self._waiting.items()):
            if getattr(client, "idle", False) or now - max(since, began) >= 1:
                # Only where nothing is there to be read: a request that is, is answered. It could be read after the
                # shutdown too, but whoever watches the connection for its client's departure would see one.
                try:
                    client._sock.recv(1, socket.MSG_PEEK)
                except BlockingIOError:
                    with contextlib.suppress(OSError):
                        client._sock.shutdown(socket.SHUT_RD)  # the greenlet that waits reads the end, and closes
                except OSError:
                    pass  # gone by itself

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        if type(client) is gevent.socket.socket:
            client = _ClientSocket(client.family, client.type, client.proto, fileno=client.detach())
        self._waiting[client] = time.monotonic()
        gevent.getcurrent().client = client
        try:
            super().handle(self._listeners.get(listener, listener), client, addr)
        finally:
            self._waiting.pop(client, None)

    def timeout_ctx(self) -> Any:
        # gunicorn has one clock for a connection that rests between two requests and for one that is sending its head.
        # `keepalive` is for the first; whoever opens a connection and says nothing need not hold a place for so long.
        rests = getattr(getattr(gevent.getcurrent(), "client", None), "idle", False)
        return gevent.Timeout(self.cfg.keepalive if rests else min(self.cfg.keepalive, _HEAD_S), False)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        self._waiting.pop(sock, None)
        self._busy += 1
        try:
            super().handle_request(listener_name, req, sock, addr)
        finally:
            self._busy -= 1
            self._waiting[sock] = time.monotonic()
            if type(sock) is _ClientSocket:
                sock.idle = not req.unreader.buf.getbuffer().nbytes  # a request may have come together with this one

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.wsgi = _App(self.wsgi)

    def run(self) -> None:
        self._listeners = {listener: _Named(listener.getsockname()) for listener in self.sockets}
        super().run()
        # What can be resumed goes on without a client, and so without a connection that holds up the exit.
        sluiceway = _sluiceway(self)
        limit = time.monotonic() + self.cfg.graceful_timeout
        while sluiceway is not None and sluiceway.unfinished and time.monotonic() < limit:
            self.notify()
            gevent.sleep(0.05)
        self._done = True

    def handle_quit(self, sig: int, frame: Any) -> None:
        gevent.spawn(self._quit, sig, frame)

    def _quit(self, sig: int, frame: Any) -> None:
        self._hurried = True
        self.alive = False
        # For the streams' last events. A master that was in no hurry before (TERM, then Ctrl-C) kills after 2 s.
        limit = time.monotonic() + 1.5
        sluiceway = _sluiceway(self)
        while (self._busy or (sluiceway and sluiceway.unfinished)) and not self._done and time.monotonic() < limit:
            gevent.sleep(0.02)
        # Exits 0.1 s later, from this greenlet. Where `run`, which looks once a second, has ended by itself meanwhile,
        # that would be a traceback.
        try:
            super(GeventWorker, self).handle_quit(sig, frame)
        except SystemExit:
            if not self._done:
                raise


def _sluiceway(worker: Any) -> Any:
    """The app's extension; None where the WSGI object is something else, or not loaded yet."""
    return getattr(getattr(getattr(worker, "wsgi", None), "app", None), "extensions", {}).get("sluiceway")


# Many streams of small pieces a process; beside plain gevent, pywsgi changes headers and answers HTTP/1.0 wrongly.
worker_class = StreamWorker

# Loopback, because by default the server is open. Beyond it stands nginx, or keys in [server] api_keys_sha256.
bind = "127.0.0.1:8000"

# A worker is one core's worth: two let one answer while the other is replaced or busy. More cores: WEB_CONCURRENCY.
workers = int(os.environ.get("WEB_CONCURRENCY") or 2)

# Connections a worker accepts. Beyond it they hang in the backlog without an answer, so this is far above what a worker
# can serve at a good pace (about a thousand streams), and health checks and idle connections still get in.
worker_connections = 4000

# Seconds that a connection may wait for its next request. Longer than clients keep an idle one (nginx' upstream{} 60 s,
# connection pools mostly less), so that who sends is who closes: otherwise a POST meets a closing connection, and is
# not repeated (of 240 through nginx, sent 2 s apart with 2 s here, 2 became 502). No exit waits for it: `StreamWorker`.
keepalive = 75

# Seconds from TERM or HUP until what is still open is cut. Streams were asked to end long before, at [server] drain_s.
# The kill delay of whatever stops us (systemd, an orchestrator) must be longer.
graceful_timeout = 30

# A worker whose event loop did not turn for this long is replaced. No limit on a stream: streaming turns the loop.
timeout = 30

# Never retire a worker by count: it stops accepting within a second, and its successor starts only after its last
# stream, up to drain_s later.
max_requests = 0

# gunicorn's line per request is written when a stream ends and tells nothing of how. --access-logfile=- turns it on.
accesslog = None

# Its default place is one per user: a second server takes it from the first. Signals do all that is needed.
control_socket_disable = True


_CHECK = """
import sys
from app import SettingsError, load_settings
try:
    print("local" if load_settings().local_enabled else "")
except SettingsError as exc:
    sys.exit(f"sluiceway: {exc}")
"""


def on_starting(server: Any) -> None:
    # A wrong setting is one sentence here, before anything else runs; in a process of its own, as the master never
    # imports the app. Left to the workers it is told by each, and where two fail to boot at the same time, gunicorn 27
    # ends in a traceback.
    command = [sys.executable, "-c", _CHECK]
    run = subprocess.run(command, cwd=Path(__file__).parent, env=_unmeasured(), stdout=subprocess.PIPE, check=False)
    if run.returncode:
        sys.exit(4)  # gunicorn's own status for an app that can't be loaded
    server.wants_model = run.stdout.strip() == b"local"


# From the fork until it has signal handlers of its own, a worker has the master's, which would swallow a stop; then the
# master would wait for it until graceful_timeout. So it is born with these signals blocked, and until the app loads
# they end it at once: there is nothing to finish yet. SIGINT stays blocked, as the terminal's Ctrl-C goes to the whole
# foreground group: a worker that got it beside the master's SIGQUIT would end with a traceback.
_STOPS = {signal.SIGINT, signal.SIGQUIT, signal.SIGTERM}

_forking = False  # in the master, a worker: not when a worker runs a program of its own


def _after_fork() -> None:
    global _forking
    if _forking:
        _forking = False
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


os.register_at_fork(after_in_parent=_after_fork)


def pre_fork(server: Any, worker: Any) -> None:
    global _forking
    _forking = True
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)


def post_fork(server: Any, worker: Any) -> None:
    global _forking
    _forking = False
    for stop in _STOPS - {signal.SIGINT}:
        signal.signal(stop, lambda *_: os._exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS - {signal.SIGINT})


def _write_error(sock: socket.socket, status: int, reason: str, message: str) -> None:
    """What gunicorn refuses by itself, before there is a request for the app (a request line or headers that are no
    HTTP, or too long), in JSON that every format's clients can read. It has no setting for this but the function."""
    error = {
        "type": "error",
        "error": {
            "type": "invalid_request_error" if status < 500 else "api_error",
            "code": "invalid_request" if status < 500 else "internal",
            "message": f"{reason}: {message}" if message else reason,
            "param": None,
            "retryable": False,
            "status": status,
        },
    }
    body = json.dumps(error)
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    gunicorn.util.write_nonblock(sock, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode("latin-1"))


gunicorn.util.write_error = _write_error


def post_worker_init(worker: Any) -> None:
    # gunicorn reads a setting by a failing look-up and two calls, some forty times a request; a worker's stay the same.
    vars(worker.cfg).update({name: setting.get() for name, setting in worker.cfg.settings.items()})
    # Python's collector walks all that lives: the SDKs' modules, and some hundred objects a stream. So what is there
    # when the app is loaded is never looked at again, and the rest less often (1,000 streams: 5 % of the CPU, and half
    # of the latency's p99).
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    sluiceway = _sluiceway(worker)
    if sluiceway is not None:
        settings = sluiceway.house.settings.server
        _limit_writing(worker, settings.write_timeout_s)
        _limit_drain(worker, settings.drain_s)
        _warn_if_full(worker, settings.max_streams)
        if not settings.api_keys_sha256:
            _warn_if_open(worker)


# Asked of the kernel for one client, in bytes; it takes twice as much, for what it keeps about them. That is minutes of
# tokens, and still 2.5 MB/s over 100 ms of distance. Left to itself it grows with a fast stream and a slow reader, to
# megabytes each, and a client that stopped reading is noticed only behind them.
_SEND_BUFFER = 256 * 1024


def _limit_writing(worker: Any, write_timeout_s: float) -> None:
    """What a client may leave untaken, and for how long. Accepted connections inherit it from their listener."""
    _ClientSocket.write_timeout_s = write_timeout_s
    for sock in worker.sockets:
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            continue  # a unix socket has 208 KiB, and a peer that can't vanish
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            # Also for a client that vanished (power, NAT), which would otherwise be found out after 15 minutes.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(write_timeout_s * 1000))


# Between the streams' end and the master's SIGKILL: for a thousand last events, and `run`'s looks, one a second.
_MARGIN_S = 3


def _limit_drain(worker: Any, drain_s: float) -> None:
    longest = max(worker.cfg.graceful_timeout - _MARGIN_S, 0)
    worker.drain_s = min(drain_s, longest)
    if drain_s > longest:
        worker.log.warning(
            "[server] drain_s = %g, but workers are killed %d s after TERM: streams are ended after %d s; raise "
            "gunicorn's graceful_timeout",
            drain_s,
            worker.cfg.graceful_timeout,
            longest,
        )


def _warn_if_full(worker: Any, max_streams: int) -> None:
    if max_streams >= worker.cfg.worker_connections:
        worker.log.warning(
            "[server] max_streams = %d, but a worker accepts %d connections: beyond these, requests hang instead of "
            "getting their 503; raise gunicorn's worker_connections",
            max_streams,
            worker.cfg.worker_connections,
        )


def _warn_if_open(worker: Any) -> None:
    """Say it loudly where a server without keys can be reached from elsewhere."""
    for sock in worker.sockets:
        address = sock.getsockname()
        if isinstance(address, tuple) and not ipaddress.ip_address(address[0]).is_loopback:
            worker.log.warning(
                "OPEN TO EVERYBODY: listening on %s without [server] api_keys_sha256; whoever reaches this address "
                "spends your tokens",
                address[0],
            )


# /metrics of any worker tells of all of them: each writes its numbers into files of one folder (prometheus_client's
# multiprocess mode). Its name goes through the environment, and must be there before an app is loaded.

_METRICS = "PROMETHEUS_MULTIPROC_DIR"


def _prepare_metrics(server: Any) -> str | None:
    """The folder that is ours; None where the user named one, which begins empty: numbers of the workers of a
    master before would be added to those of today's."""
    if named := os.environ.get(_METRICS):
        Path(named).mkdir(parents=True, exist_ok=True)
        if not server.master_pid:  # after USR2 the old master's workers are still writing
            for left in Path(named).glob("*.db"):
                left.unlink(missing_ok=True)
        return None
    made = tempfile.mkdtemp(prefix="sluiceway-metrics-")
    if (server.cfg.uid, server.cfg.gid) != (os.geteuid(), os.getegid()):
        os.chown(made, server.cfg.uid, server.cfg.gid)
    os.environ[_METRICS] = made
    # Not on_exit, which is left out where two workers fail to boot at the same time. A killed master leaves it.
    atexit.register(_remove, made, os.getpid())
    return made


def _remove(folder: str, master: int) -> None:
    if os.getpid() == master:  # a worker's exit comes by here as well
        shutil.rmtree(folder, ignore_errors=True)


def _unmeasured() -> dict[str, str]:
    """The environment of a process of ours that is no worker, and would leave files there too."""
    return {name: value for name, value in os.environ.items() if name != _METRICS}


def child_exit(server: Any, worker: Any) -> None:
    # Its counts stay, or totals would fall; what it had open does not.
    from prometheus_client import multiprocess

    with contextlib.suppress(OSError):  # it would end the master
        multiprocess.mark_process_dead(worker.pid)


# The embedded model (app/local_model.py) is a process beside the workers, started and ended with the server where the
# settings want it (after a reload it finds that out by itself). It learns its port and key as the workers do, from the
# environment; a port that is set already means that somebody else runs the model. A second execution of this file, on
# HUP, keeps what the first one chose.

_PORT, _KEY = "SLUICEWAY_LOCAL__PORT", "SLUICEWAY_LOCAL__API_KEY"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_starts_model = _PORT not in os.environ
if _starts_model:
    os.environ[_PORT] = str(_free_port())
    os.environ[_KEY] = "local-" + secrets.token_hex(16)  # a prefix, as settings would read bare digits as a number


def _start_model() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        # The package `app` imports this module on its way (for /readyz), of which -m would warn.
        [sys.executable, "-W", "ignore::RuntimeWarning:runpy", "-m", "app.local_model", str(os.getpid())],
        cwd=Path(__file__).parent,
        env=_unmeasured(),
        stdin=subprocess.DEVNULL,
        # Out of the terminal's foreground group: Ctrl-C reaches the master only, which ends the workers' streams first.
        start_new_session=True,
    )


# The handles are kept on the arbiter, because after HUP these functions are others, in a new namespace.


def when_ready(server: Any) -> None:
    # Not on_starting: an address in use ends the master between the two, without on_exit.
    server.metrics_dir = _prepare_metrics(server)
    server.runs_model = _starts_model
    server.local_model = _start_model() if _starts_model and server.wants_model else None


def on_reload(server: Any) -> None:
    # It ends by itself when it is not wanted, and the new configuration may want it.
    if server.runs_model and (server.local_model is None or server.local_model.poll() is not None):
        server.local_model = _start_model()


def pre_exec(server: Any) -> None:
    # USR2: the new master has a folder and a model of its own, also after a HUP, when our values pass for the user's.
    if server.metrics_dir is not None:
        server.cfg.env_orig.pop(_METRICS, None)
    if server.runs_model:
        for name in (_PORT, _KEY):
            server.cfg.env_orig.pop(name, None)


def on_exit(server: Any) -> None:
    # Not reached when the master is killed: then the model sees that its parent is gone.
    model = server.local_model
    if model is None or model.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):  # it ended by itself, and the master took it for one of its workers
        model.terminate()
        try:
            model.wait(timeout=5)
        except subprocess.TimeoutExpired:
            model.kill()
