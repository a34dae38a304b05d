"""Webhooks: the outbox, whose turn it is, and the signature."""
