"""The words that both sides speak: jobs, storage, catalog, events, settings.

Law: no Flask, no torch, and no import of ``api``, ``worker`` or ``cli``.
"""
