"""A task added to a copy of Qanvas: the code of docs/extending/task.md, run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.extending.pages import blocks_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extending" / "task.md"
PROGRAM = """
from shared.catalog.catalog import Catalog
from shared.db.engine import Database
from shared.settings import Settings

settings = Settings.from_env({"QANVAS_DATA": "data", "QANVAS_CATALOG": "catalog.toml"})
database = Database("sqlite:///jobs.db")
database.migrate()
catalog = Catalog(settings, database)
model = catalog.resolve(None, "title-generation")
assert model.id == "mine", model
assert catalog.resolve("starter-text", "title-generation").task == "title-generation"
print(catalog.check_input(model, {"prompt": "x"})["max_tokens"])
"""


@pytest.mark.slow
def test_a_task_on_an_old_engine_touches_one_family_and_one_schema_file(tmp_path: Path) -> None:
    for package in ("shared", "starters"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (schema, text), (declaration, lines) = blocks_of(PAGE)
    (tmp_path / schema).write_text(text)
    family = tmp_path / declaration
    whole, count = re.subn(r"^    tasks=[^\n]*\n", lines, family.read_text(), flags=re.MULTILINE)
    assert count == 1
    family.write_text(whole)
    (tmp_path / "catalog.toml").write_text("[models.mine]\ntask = 'title-generation'\nfolder = '.'\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "12\n"), done.stderr
