"""One check of a job's input."""

from __future__ import annotations

import json
import timeit
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.catalog import tasks
from shared.errors import InvalidInput
from shared.schema.input_check import MAX_FAULTS, InputCheck

PICTURE = InputCheck(tasks.load("text-to-image"))
TEXT = InputCheck(tasks.load("text-generation"))


def faults(check: InputCheck, value: object, pointer: str = "/input") -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        check.check(value, pointer)
    return {error.pointer: error.detail for error in caught.value.errors}


def fault(check: InputCheck, value: object) -> tuple[str, str]:
    [found] = faults(check, value).items()
    return found


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def test_defaults_are_filled_in_and_what_was_given_stays() -> None:
    checked = PICTURE.check({"prompt": "a red apple", "steps": 7, "seed": 0}, "/input")
    assert checked == {
        "prompt": "a red apple",
        "steps": 7,
        "seed": 0,
        "num_images": 1,
        "preview_every": 0,
        "preview_seconds": 1,
        "exact": False,
    }


def test_a_seed_is_drawn_for_each_job_that_gives_none() -> None:
    seeds = {PICTURE.check({"prompt": ""}, "/input")["seed"] for _ in range(20)}
    assert len(seeds) > 10
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_a_drawn_seed_keeps_to_the_models_own_limit() -> None:
    schema = {"type": "object", "properties": {"seed": {"type": "integer", "minimum": 0, "maximum": 1}}}
    check = InputCheck(schema)
    assert {check.check({}, "")["seed"] for _ in range(50)} == {0, 1}


def test_no_seed_is_drawn_where_the_model_knows_none() -> None:
    assert InputCheck({"type": "object", "properties": {}}).check({}, "") == {}


def test_what_was_given_is_not_changed_and_defaults_are_not_shared() -> None:
    given = {"prompt": "a"}
    first = TEXT.check(given, "/input")
    first["stop"].append("x")
    assert given == {"prompt": "a"}
    assert TEXT.check(given, "/input")["stop"] == []


def test_a_whole_number_written_with_a_point_is_a_whole_number() -> None:
    checked = PICTURE.check({"prompt": "", "width": 64.0, "guidance_scale": 3}, "/input")
    assert (checked["width"], type(checked["width"])) == (64, int)


@pytest.mark.parametrize(
    ("name", "value", "detail"),
    [
        ("width", 65, "must be a whole number, a multiple of 8, 64 to 2048; got 65"),
        ("width", "64", "must be a whole number, a multiple of 8, 64 to 2048; got '64'"),
        ("width", 10**400, "must be a whole number, a multiple of 8, 64 to 2048; got a huge number"),
        ("width", float("nan"), "must be a finite number"),
        ("guidance_scale", float("inf"), "must be a finite number"),
        ("steps", 0, "must be a whole number, 1 to 150; got 0"),
        ("steps", 10.5, "must be a whole number, 1 to 150; got 10.5"),
        ("num_images", True, "must be a whole number, 1 to 8; got true"),
        ("seed", None, "must be a whole number, 0 to 4294967295; got null"),
        ("exact", 1, "must be true or false; got 1"),
        ("prompt", 3, "must be text, at most 4096 characters; got 3"),
        ("prompt", ["a"], "must be text, at most 4096 characters; got a list of 1"),
        ("prompt", {"a": 1}, "must be text, at most 4096 characters; got an object"),
        ("prompt", "x" * 1_000_000, "must be text, at most 4096 characters; got 1000000 characters"),
        ("prompt", "a\0b", "has the character U+0000, which is not allowed"),
        ("prompt", "\ud83d", "has half of a surrogate pair, which is not valid Unicode"),
    ],
)
def test_a_fault_names_the_field_and_what_is_allowed(name: str, value: object, detail: str) -> None:
    assert fault(PICTURE, {"prompt": "a", name: value}) == (f"/input/{name}", detail)


def test_a_missing_field_is_named_with_what_it_takes() -> None:
    assert fault(PICTURE, {}) == ("/input/prompt", "is required: text, at most 4096 characters")


def test_an_unknown_field_is_answered_with_the_known_ones_and_the_nearest() -> None:
    pointer, detail = fault(PICTURE, {"prompt": "a", "witdh": 64})
    assert pointer == "/input/witdh"
    assert detail.startswith("is not known here; did you mean 'width'?; known are prompt, negative_prompt, ")


def test_a_word_that_is_not_among_those_allowed_is_answered_with_all_of_them() -> None:
    pointer, detail = fault(PICTURE, {"prompt": "a", "scheduler": "euler"})
    assert pointer == "/input/scheduler"
    assert detail.startswith("must be one of 'DDIM', 'DDPM', ")
    assert detail.endswith("; got 'euler'; did you mean 'Euler'?")


@pytest.mark.parametrize("value", [None, 3, "text", [], [{"prompt": "a"}]])
def test_an_input_that_is_no_object_is_told_the_fields(value: object) -> None:
    pointer, detail = fault(PICTURE, value)
    assert pointer == "/input"
    assert detail.startswith("must be an object, with prompt, negative_prompt, ")


def test_every_fault_is_named_once_and_below_the_given_place() -> None:
    found = faults(PICTURE, {"width": 1.5, "height": 9999, "steps": -1, "x/y~z": 1}, "/jobs/17/input")
    assert sorted(found) == [
        "/jobs/17/input/height",
        "/jobs/17/input/prompt",
        "/jobs/17/input/steps",
        "/jobs/17/input/width",
        "/jobs/17/input/x~1y~0z",
    ]


def test_faults_inside_lists_are_pointed_at() -> None:
    messages = [{"role": "robot", "content": 3}, {"role": "user", "content": "hi", "name": "x"}]
    assert faults(TEXT, {"messages": messages}) == {
        "/input/messages/0/role": "must be one of 'system', 'user', 'assistant'; got 'robot'",
        "/input/messages/0/content": "must be text, at most 32768 characters; got 3",
        "/input/messages/1/name": "is not known here; known are role, content",
    }


@pytest.mark.parametrize("value", [{}, {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}])
def test_a_choice_between_fields_is_named(value: object) -> None:
    assert fault(TEXT, value) == ("/input", "give exactly one of prompt, messages")


def test_a_file_is_described_by_its_kind() -> None:
    pointer, detail = fault(InputCheck(tasks.load("train-text")), {"dataset": 3, "name": "a1"})
    assert pointer == "/input/dataset"
    assert detail.startswith("must be text: the id of a file (file_…)")


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": "a", "extra": nested(5000)},
        {"prompt": nested(5000)},
        {"prompt": "a", **{f"field{i}": "x" * 100 for i in range(20_000)}},
        {"prompt": "a", "f" * 1_000_000: 1},
        {"prompt": "a", "\ud83d": 1},
        {"prompt": "a", "a\0": {"\0": 1}},
        {"prompt": ["\0"] * 50_000},
    ],
)
def test_a_monstrous_input_gets_a_short_answer(value: object) -> None:
    found = faults(PICTURE, value)
    assert 1 <= len(found) <= MAX_FAULTS
    assert sum(len(pointer) + len(detail) for pointer, detail in found.items()) < 10_000


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_FIELDS = sorted({name for each in tasks.names() for name in tasks.load(each)["properties"]})


@given(st.sampled_from(sorted(tasks.names())), st.dictionaries(st.sampled_from(_FIELDS), _JSON) | _JSON)
def test_any_json_is_either_accepted_as_json_or_refused_as_invalid(name: str, value: object) -> None:
    check = InputCheck(tasks.load(name))
    try:
        checked = check.check(value, "/input")
    except InvalidInput:
        assert all(place.startswith("/input") and detail for place, detail in faults(check, value).items())
    else:
        json.dumps(checked, allow_nan=False, ensure_ascii=False).encode()
        assert check.check(checked, "/input") == checked


@pytest.mark.parametrize("name", sorted(tasks.names()))
def test_every_schema_is_closed_and_its_defaults_fit(name: str) -> None:
    schema = tasks.load(name)
    assert schema["additionalProperties"] is False
    for field, rule in schema["properties"].items():
        if "default" in rule:
            InputCheck({"type": "object", "properties": {field: rule}}).check({field: rule["default"]}, "")


def test_a_check_costs_less_than_a_database_write() -> None:
    value = {"prompt": "a red apple on a table", "width": 64, "height": 64, "steps": 20, "seed": 1}
    seconds = min(timeit.repeat(lambda: PICTURE.check(value, "/input"), number=200, repeat=10)) / 200
    assert seconds < 100e-6
