"""Files that users send, decoded in child processes with limits.

Law: knows neither torch, nor SQL, nor Redis, nor storage. ``child`` and ``tasks`` run
in decoders, with all that they import; ``sandbox`` and ``starter`` run in the worker, which decodes none.
"""
