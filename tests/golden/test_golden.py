"""What users rely on stays as it is, whatever moves inside."""

from __future__ import annotations

import pytest

from tests.golden.frozen import FOLDER, FROZEN


@pytest.mark.parametrize("file", sorted(FROZEN))
def test_what_users_see_is_what_was_frozen(file: str) -> None:
    assert FROZEN[file]() == (FOLDER / file).read_text(), (
        f"tests/golden/{file} differs; where that is meant: python -m tests.golden.frozen"
    )
