"""JSON as it is stored and sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.json_text import to_json


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": 'яблоко 苹果 🍎 \u2028 " \\ \x1f', "n": [1, -2.5, 1e-300, True, None], "": {}},
        [2**53 + 1, 2**63, -(2**64), 10**100],
        [[[[]]], {"a": {"b": {"c": [{}]}}}],
        "text",
        1.7976931348623157e308,
    ],
)
def test_what_was_written_is_read_back(value: Any) -> None:
    assert json.loads(to_json(value)) == value


def test_it_has_no_blanks_and_writes_every_character_as_itself() -> None:
    assert to_json({"a": [1, "é"]}) == '{"a":[1,"é"]}'
    assert to_json({"a": [10**100, "é"]}) == f'{{"a":[{10**100},"é"]}}'


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        to_json({"a": {1, 2}})
