"""One process per device: takes tickets, runs models, stores outputs.

Law: imports ``shared`` and never ``api`` or ``cli``; torch lives in ``worker.kiln`` and ``worker.engines``.
"""
