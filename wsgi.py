"""The app as a WSGI server wants it: `gunicorn wsgi:app` (it reads gunicorn.conf.py by itself)."""

from app import create_app

app = create_app()
