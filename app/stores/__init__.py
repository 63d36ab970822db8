"""What workers share: one file a store, found by the scheme of `[store] url`; this table is the map."""

from __future__ import annotations

from ..registry import Registry
from .base import MAIL_BYTES, Entry, Page, Record, Store

STORES: Registry[Store] = Registry(
    __name__,
    {
        "sqlite": ".sqlite:SQLite",
        "redis": ".redis:Redis",
        "rediss": ".redis:Redis",
    },
)

__all__ = ["MAIL_BYTES", "STORES", "Entry", "Page", "Record", "Store"]
