"""How it is sent: batches of events as the body of a Flask response, one write each; and whether anybody still reads.

body.py        the stream, its heartbeats, its proper end; the answer in one piece
watch.py       the client's departure
websocket.py   in place of a body: messages to and fro
"""

from .body import Batches, Streamed, streamed, whole
from .watch import ClientWatch, can_watch
from .websocket import Upgraded, WebSocket

__all__ = ["Batches", "ClientWatch", "Streamed", "Upgraded", "WebSocket", "can_watch", "streamed", "whole"]
