"""Celery's part of a worker: the app, its thread pool, and the task that a ticket starts."""
