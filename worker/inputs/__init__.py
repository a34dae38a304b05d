"""From an input's local files to what an engine computes with: one module for each kind of input.

Law: knows neither torch, nor SQL, nor Redis, nor storage. Untrusted bytes are decoded by ``worker.media``
alone.
"""
