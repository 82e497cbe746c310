"""The fleet's side of a run: `celery -A worker worker` finds its application in `worker.celery`.

This module stays empty on purpose: zygote and sandbox import the package and must not load Celery.
"""
