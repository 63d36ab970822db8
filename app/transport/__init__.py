"""The HTTP under the SDK clients: one `httpx2.Client` whose reads obey an answer's `Clock`.

The SDKs' own read timeout is a constant per `recv`; an answer needs another figure before its first token than after
it, and one that a provider's pings do not push away. So the connection pool (`httpcore2`) gets a network backend
whose streams ask the clock, at every read, how long they may still wait. The clock travels with the request:
`clocked(...)` is an ordinary `httpx2.Timeout` for the SDK call, and the client takes the clock out of it.

Where a proxy is configured (`HTTPS_PROXY`), httpx2's own transport serves, and each read waits at most what the clock
had left when the request began.
"""

from .client import clocked, http_client

__all__ = ["clocked", "http_client"]
