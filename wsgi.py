"""The app as a WSGI server wants it: `gunicorn wsgi:app` (it reads gunicorn.conf.py by itself)."""

import sys

from app import SettingsError, create_app

try:
    app = create_app()
except SettingsError as exc:
    # Its sentences and no traceback: nothing is broken but the configuration. 4 is gunicorn's APP_LOAD_ERROR, on which
    # the master ends too, where after another status it would start the worker again and again.
    print(f"sluiceway: {exc}", file=sys.stderr)
    sys.exit(4)
