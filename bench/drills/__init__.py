"""The same SIGKILL in mid-job for Qanvas, Celery, RQ, Huey and Dramatiq: ``python -m bench.drills``."""
