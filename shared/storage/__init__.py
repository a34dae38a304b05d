"""Bytes under keys: a folder or an object store behind one interface. Writes are all or nothing."""

from shared.storage.base import Storage, StoredObject


__all__ = ["Storage", "StoredObject"]
