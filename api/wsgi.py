"""What gunicorn serves: `gunicorn -c python:api.gunicorn_conf api.wsgi:app`. Imported in the worker, after the fork."""

from __future__ import annotations

from api.app import create_app
from shared.settings import get_settings

app = create_app(get_settings())
