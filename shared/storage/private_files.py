"""Who may read what Qanvas keeps: its own user alone, or a group where the operator says so.

The database holds webhook secrets, and the folders hold what people made. New files and folders get their
permissions from the umask; what an earlier version left wider is closed at start.

A folder is shared with its group on purpose when it has the setgid bit and the group may write it
(``chmod 2770``, as for several users who work in one folder): files stay open to the group then.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from shared.errors import ConfigurationError
from shared.settings import Settings
from shared.storage.factory import local_folder

log = logging.getLogger(__name__)

#: what others may not do, and what is left to the group of a shared folder
_PRIVATE, _SHARED = 0o077, 0o007
#: what Qanvas makes in its data folder; other things that lie there are somebody else's
_OURS = ("cache", "hub", "logs", "models", "profiles", "qanvas.*", "run", "scratch", "storage", "valkey*")


def keep_private(settings: Settings) -> int:
    """Set the umask of this process, and close what others can read of the data folder and the database.

    Returns the umask that was set before. Raises ConfigurationError for a data folder that belongs to
    another user, or that all users share."""
    data = settings.data
    mode = _check(data)
    storage = local_folder(settings.storage_url)
    shared = [folder for folder in (data, storage) if folder is not None and _is_shared(folder)]
    before = os.umask(_SHARED if shared else _PRIVATE)
    forbidden = _SHARED if data in shared else _PRIVATE
    if mode & forbidden and _close(data, forbidden):
        closed = sum(_close(path, forbidden) for path in _contents(data))
        log.warning(
            "%s was open to other users (mode %04o): closed, with %d files and folders in it; to share it "
            "with a group, give it to that group and set its mode to 2770",
            data,
            stat.S_IMODE(mode),
            closed,
        )
    for path in _database_files(settings.database_url):
        if not _is_shared(path.parent) and _close(path, _PRIVATE):
            log.warning("%s was open to other users: closed", path)
    return before


def _check(data: Path) -> int:
    """The data folder's mode, 0 where there is none. Raises ConfigurationError when it cannot be ours."""
    try:
        found = data.stat()
    except OSError:  # not there yet; or whoever makes it will say why not
        return 0
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError(f"the data folder {data} is not a folder; name another in QANVAS_DATA")
    if _is_everybodys(data, found.st_mode):
        raise ConfigurationError(
            f"{data} is for all users of this machine; name a folder of its own in QANVAS_DATA, such as "
            f"{data / 'qanvas'}"
        )
    if found.st_uid != os.geteuid() and not _is_shared(data):
        raise ConfigurationError(
            f"the data folder {data} belongs to another user (id {found.st_uid}; this is {os.geteuid()}), "
            "who could read and change everything in it; run as that user, change its owner with chown, "
            "share it with a group by `chmod 2770`, or name another in QANVAS_DATA"
        )
    return found.st_mode


def _is_everybodys(data: Path, mode: int) -> bool:
    """Whether this is the root, or a folder as /tmp; a tmpfs that is mounted for us has its mode, too."""
    common = {Path(place).resolve() for place in ("/", "/tmp", "/var/tmp", "/dev/shm", tempfile.gettempdir())}
    as_tmp = mode & stat.S_ISVTX and mode & stat.S_IWOTH
    return data in common or bool(as_tmp and set(data.iterdir()) - {p for o in _OURS for p in data.glob(o)})


def _is_shared(folder: Path) -> bool:
    """Whether its operator shares a folder with its group."""
    try:
        mode = folder.stat().st_mode
    except OSError:
        return False
    return bool(mode & stat.S_ISGID and mode & stat.S_IWGRP)


def _close(path: Path, forbidden: int) -> bool:
    """Take the forbidden permissions from a file or folder of this user; whether there were any."""
    try:
        found = path.lstat()
        mode = stat.S_IMODE(found.st_mode)
        if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid() or not mode & forbidden:
            return False
        path.chmod(mode & ~forbidden)
    except FileNotFoundError:
        return False
    except OSError as error:
        log.warning("%s is open to other users and cannot be closed: %s", path, error.strerror)
        return False
    return True


def _contents(data: Path) -> Iterator[Path]:
    """All that is ours below the data folder; links are not followed."""
    for pattern in _OURS:
        for path in data.glob(pattern):
            yield path
            if path.is_symlink():
                continue
            for folder, folders, files in os.walk(path):
                yield from (Path(folder, name) for name in (*folders, *files))


def _database_files(url: str) -> list[Path]:
    """SQLite's file and those beside it; none of a database server."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # said where it is opened
        return []
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return []
    return [Path(parsed.database + suffix) for suffix in ("", "-wal", "-shm")]
