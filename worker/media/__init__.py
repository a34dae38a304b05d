"""Files that users send, decoded in child processes with limits.

Law: knows neither torch, nor SQL, nor Redis, nor storage. ``child``, ``tasks`` and what they import run in
the child, which decodes untrusted bytes; ``sandbox`` runs in the worker, which decodes none.
"""
