"""How it is sent: batches of events as the body of a Flask response, one write each; and whether anybody still reads.

body.py    the stream, its heartbeats, its proper end; the answer in one piece
watch.py   the client's departure
"""

from .body import Batches, Streamed, streamed, whole
from .watch import ClientWatch, can_watch

__all__ = ["Batches", "ClientWatch", "Streamed", "can_watch", "streamed", "whole"]
