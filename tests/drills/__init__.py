"""Drills: everything is killed at random, again and again, and then the database and the storage are audited.

``make drill SEED=7 JOBS=3000 SECONDS=600 DATABASE=postgresql`` runs a long one; the suite runs a short one.
"""
