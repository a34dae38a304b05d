"""Bytes under keys: a folder or an object store behind one interface. Writes are all or nothing."""

from shared.storage.base import Storage, StoredObject, check_writable
from shared.storage.factory import open_storage

__all__ = ["Storage", "StoredObject", "check_writable", "open_storage"]
