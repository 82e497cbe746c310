"""What gunicorn serves: `gunicorn -c python:api.gunicorn_conf api.wsgi:app`. Imported in the worker, after the fork."""

from __future__ import annotations

import sys

import structlog
from gunicorn.arbiter import Arbiter

from api.app import create_app
from shared.errors import ConfigurationError
from shared.settings import get_settings

try:
    app = create_app(get_settings())
except ConfigurationError as error:
    structlog.get_logger(__name__).error("the api cannot start", reason=error.message)
    sys.exit(Arbiter.APP_LOAD_ERROR)  # gunicorn's main process gives up on this code, instead of trying for ever
