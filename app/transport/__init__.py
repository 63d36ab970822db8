"""The HTTP under the SDK clients: an `httpx2` transport made for streaming.

    http1.py        a request to bytes, a response's bytes to head and body; llhttp parses, no IO
    waiting.py      how a greenlet or a thread waits for a socket
    connection.py   one connection: connect, send, timed reads that can go on, abort from anywhere
    pool.py         idle connections, by origin
    client.py       the httpx2 side

The SDKs' own read timeout is a constant per `recv`; an answer needs another figure before its first token than after
it, and one that a provider's pings do not push away. So every read here waits as long as the answer's `Clock` allows.
The clock travels with the request: `clocked(...)` is an ordinary `httpx2.Timeout` for the SDK call, and the client
takes the clock out of it. What one read brings is given at once: all chunks of it, as one piece.

Where a proxy is configured (`HTTPS_PROXY`), httpx2's own transport serves, and each read waits at most what the clock
had left when the request began.

No wait is for ever inside somebody else's call: an SDK's call ends once the request is sent, and the response's headers
are waited for outside of it (`pending`), a while and then a while again, as is every piece of the body.
"""

from .client import Body, Client, clocked, http_client, pending

__all__ = ["Body", "Client", "clocked", "http_client", "pending"]
