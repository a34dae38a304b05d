"""Engines: each loads one kind of model once and runs many jobs with it.

Law: an engine knows neither SQL, nor Redis, nor storage. Parameters in, values out.
"""
