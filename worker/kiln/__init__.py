"""The engine thread of a device: who computes next, which models stay loaded.

Law: knows neither SQL, nor Redis, nor storage. ``decide``, ``costs``, ``residency`` and ``peaks`` do no
I/O and know no torch.
"""
