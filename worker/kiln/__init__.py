"""The engine thread of a device: who computes next, which models stay loaded.

Law: knows neither SQL, nor Redis, nor storage. ``policy``, ``costs``, ``model_cache`` and ``peaks`` do no
I/O and know no torch.
"""
