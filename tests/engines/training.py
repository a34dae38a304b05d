"""A training as a worker runs it: its dataset is read first. Here in this process, which is quicker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.engines.contexts import Recorder
from worker.engines.contract.datasets import PicturesWanted
from worker.engines.contract.engine import Result, Trainer, Work
from worker.inputs.datasets import Pictures, read_dataset
from worker.media.limits import Limits
from worker.media.tasks import TASKS
from worker.media.wire import Files


class Here:
    """Implements ``Reader`` without a sandbox; files go into ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(
        self,
        task: str,
        sources: Sequence[Path],
        targets: Sequence[str],
        limits: Limits,
        arguments: Mapping[str, Any],
    ) -> tuple[bytes, list[Path]]:
        self.folder.mkdir(parents=True, exist_ok=True)
        files = [self.folder / name for name in targets]
        with ExitStack() as stack:
            read = [stack.enter_context(path.open("rb")) for path in sources]
            written = [stack.enter_context(path.open("wb")) for path in files]
            answer = TASKS[task](Files(read, written), arguments, lambda _done, _total: None)
        return answer, files


def train(trainer: Trainer, work: Work, context: Recorder) -> Result:
    """What a job of this trainer gives, from the file that its input names as ``dataset``."""
    wanted = trainer.wants(work.input, context.resume)
    dataset = read_dataset(wanted, Path(work.input["dataset"]), Here(context.folder / "decoded"))
    return trainer.run(None, replace(work, input={**work.input, "dataset": dataset}), context)


def read_pictures(archive: Path, size: int) -> Pictures:
    """The pictures of a training archive."""
    found = read_dataset(PicturesWanted(size=size), archive, Here(archive.parent / "decoded"))
    assert isinstance(found, Pictures)
    return found
