"""How it is sent: batches of events as the body of a Flask response, one write each."""

from .body import streamed, whole

__all__ = ["streamed", "whole"]
