"""The account of loaded models."""

from __future__ import annotations

from worker.kiln.model_cache import ModelCache


def loaded(residency: ModelCache, *sizes: int) -> list[str]:
    """Enter idle models ``a``, ``b``… of these sizes."""
    keys = [chr(ord("a") + i) for i in range(len(sizes))]
    for key, size in zip(keys, sizes, strict=True):
        residency.add(key, key, object(), size)
        residency.unpin(key)
    return keys


def test_the_least_recently_used_model_leaves_first() -> None:
    residency = ModelCache(300)
    loaded(residency, 100, 100, 100)
    residency.pin("a")
    residency.unpin("a")
    assert [resident.key for resident in residency.evict_idle(down_to=200)] == ["b"]
    assert residency.names == ("c", "a")
    assert residency.used == 200


def test_a_model_that_runs_is_never_evicted() -> None:
    residency = ModelCache(100)
    loaded(residency, 100, 100)
    residency.pin("a")
    assert [resident.key for resident in residency.evict_idle(down_to=0)] == ["b"]
    assert residency.names == ("a",)


def test_a_model_with_two_users_stays_pinned_until_both_have_ended() -> None:
    residency = ModelCache(100)
    loaded(residency, 100)
    residency.pin("a")
    residency.pin("a")
    residency.unpin("a")
    assert residency.evict_idle(down_to=0) == []
    residency.unpin("a")
    assert [resident.key for resident in residency.evict_idle(down_to=0)] == ["a"]


def test_nothing_is_evicted_while_all_fit() -> None:
    residency = ModelCache(300)
    loaded(residency, 100, 100, 100)
    assert residency.evict_idle(down_to=residency.budget) == []


def test_a_model_that_is_not_there_cannot_be_pinned() -> None:
    assert ModelCache(100).pin("nobody") is None


def test_idle_models_make_room_for_weights_and_for_what_jobs_take_besides() -> None:
    residency = ModelCache(1000)
    loaded(residency, 300, 400)
    assert residency.room_for(500, 100, beside=False) == 400
    assert residency.room_for(2000, 100, beside=False) == 0, "a try where it cannot fit"


def test_a_model_that_does_not_fit_beside_those_that_run_waits() -> None:
    residency = ModelCache(1000)
    loaded(residency, 300, 400)
    residency.pin("b")
    assert residency.running == ("b",)
    assert residency.room_for(500, 100, beside=True) == 400
    assert residency.room_for(500, 101, beside=True) is None
    assert residency.room_for(500, 101, beside=False) == 399
