"""HTTP in, JSON out: validate, call ``shared``, answer.

Law: Flask lives here and nowhere else; no torch, no SQL, and no import of ``worker`` or ``cli``.
"""
