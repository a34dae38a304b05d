"""How calls of unmodified pipelines are put together: what may be shared, and how.

Law: which calls run together is decided elsewhere; here is only how a model's arguments are joined and its
answers split.
"""
