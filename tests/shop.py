"""Somebody's app with a database of two connections: it asks the database before every request, in its views, and
after them; and it streams."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, Response, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import app as sluiceway
from app import Sluiceway


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)


class Customer(db.Model):  # type: ignore[name-defined, misc]
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


app = Flask("shop")
app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{os.environ['SHOP_DATABASE']}"
# Who waits for a connection longer than this, gets an error.
app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_size": 2, "max_overflow": 0, "pool_timeout": 2}
db.init_app(app)
Sluiceway(app, url_prefix="/ai")

with app.app_context():
    db.create_all()
    db.session.add(Customer(name="Ada"))
    db.session.commit()


def known() -> int:
    return len(db.session.execute(db.select(Customer)).scalars().all())


@app.before_request
def look_up() -> None:
    if request.path not in ("/pool", "/ai/healthz", "/healthz"):
        assert known() >= 1


@app.after_request
def note(response: Response) -> Response:
    if "after" in request.args:  # such as an entry in a log: it begins a session anew
        db.session.execute(text("select 1"))
    return response


@app.post("/ask")
def ask() -> Response:
    assert known() >= 1
    return sluiceway.stream(request)


@app.get("/healthz")
def healthz() -> str:
    return "ok"


@app.get("/pool")
def pool() -> dict[str, Any]:
    return {"checked_out": db.engine.pool.checkedout(), "of": db.engine.pool.size()}
