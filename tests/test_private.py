"""Who may read what Qanvas writes: modes of real files, and folders that cannot be its own."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.settings import Settings
from shared.storage.private_files import keep_private


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """As most users have it; and as it was, afterwards."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def _settings(data: Path, **others: str) -> Settings:
    return Settings.from_env({"QANVAS_DATA": str(data), **others})


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("secret")
    return path


def test_what_is_written_from_now_on_is_its_users_own(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert keep_private(_settings(data)) == 0o022
    path = _write(data / "new" / "file")
    assert [_mode(one) for one in (data, path.parent, path)] == [0o700, 0o700, 0o600]


def test_what_an_earlier_version_left_open_is_closed_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    database, picture = _write(data / "qanvas.db"), _write(data / "storage" / "outputs" / "a.png")
    other, link = _write(data / "somebody" / "else.txt"), data / "logs"
    elsewhere = _write(tmp_path / "elsewhere" / "log.txt")
    link.symlink_to(elsewhere.parent)
    keep_private(_settings(data))
    assert [_mode(one) for one in (data, picture.parent, database, picture)] == [0o700, 0o700, 0o600, 0o600]
    assert _mode(other) == 0o644, "what is not Qanvas's keeps its mode, behind a folder that is closed"
    assert _mode(elsewhere) == 0o644, "links lead to what somebody else cares for"
    [line] = [one.getMessage() for one in caplog.records]
    assert f"{data} was open to other users (mode 0755): closed, with 4 files and folders" in line
    assert "2770" in line
    caplog.clear()
    keep_private(_settings(data))
    assert not caplog.records


def test_a_database_outside_of_the_data_folder_is_closed_too(tmp_path: Path) -> None:
    database = _write(tmp_path / "elsewhere" / "q.db")
    keep_private(_settings(tmp_path / "data", QANVAS_DATABASE_URL=f"sqlite:///{database}"))
    assert (_mode(database), _mode(database.parent)) == (0o600, 0o755)


def test_a_folder_that_is_shared_with_a_group_on_purpose_stays_open_to_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    database = _write(data / "qanvas.db")
    data.chmod(0o2775)
    keep_private(_settings(data))
    path = _write(data / "new" / "file")
    assert [_mode(one) & 0o777 for one in (data, path.parent, path)] == [0o770, 0o770, 0o660]
    assert _mode(database) & 0o007 == 0


def test_a_storage_that_is_shared_with_a_group_stays_open_to_it_and_the_data_folder_does_not(
    tmp_path: Path,
) -> None:
    data, storage = tmp_path / "data", tmp_path / "shared"
    data.mkdir()
    storage.mkdir()
    storage.chmod(0o2770)
    keep_private(_settings(data, QANVAS_STORAGE_URL=storage.as_uri()))
    assert _mode(_write(storage / "outputs" / "a.png")) == 0o660
    assert _mode(data) == 0o700


@pytest.mark.parametrize("folder", [Path("/"), Path(tempfile.gettempdir())])
def test_a_folder_that_all_users_share_is_refused_and_stays_as_it_is(folder: Path) -> None:
    before = folder.stat().st_mode
    with pytest.raises(
        ConfigurationError, match=rf"for all users .*QANVAS_DATA, such as {folder / 'qanvas'}"
    ):
        keep_private(_settings(folder))
    assert folder.stat().st_mode == before


def test_a_folder_of_its_own_with_the_mode_of_tmp_as_a_fresh_tmpfs_has_is_closed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o1777)
    keep_private(_settings(data))
    assert _mode(data) & 0o777 == 0o700
    data.chmod(0o1777)
    _write(data / "somebody.txt")
    with pytest.raises(ConfigurationError, match="for all users"):
        keep_private(_settings(data))


def test_a_folder_of_another_user_is_refused_with_the_cure(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        data = tmp_path / "data"
        data.mkdir()
        os.chown(data, 65534, 65534)
    else:
        data = Path("/usr")  # root's
    before = data.stat().st_mode
    with pytest.raises(ConfigurationError, match=r"belongs to another user .*chown.*2770.*QANVAS_DATA"):
        keep_private(_settings(data))
    assert data.stat().st_mode == before


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a folder"):
        keep_private(_settings(_write(tmp_path / "data")))
