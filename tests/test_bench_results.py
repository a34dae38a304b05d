"""Where benchmarks leave what they measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import report


def test_a_result_names_the_command_that_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert report.write_result("knee-gpu", "| a |").read_text() == (
        "# What a forward of several pictures gains, on a GPU\n\n"
        "Written by `python -m bench.knee --device cuda`.\n\n| a |\n"
    )
    with pytest.raises(KeyError):
        report.write_result("unknown", "")


@pytest.mark.parametrize("path", sorted(report.RESULTS.glob("*.md")), ids=lambda path: str(path.stem))
def test_every_result_has_a_benchmark_and_every_image_of_it_is_there(path: Path) -> None:
    assert path.stem.removesuffix("-gpu") in report.PARTS
    for image in re.findall(r"\]\(([^)]+\.png)\)", path.read_text()):
        assert (path.parent / image).resolve().exists()
