"""A context without a kiln: remembers what an engine says, and stops it where a test wants."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.engines.contract.engine import Call, Device, Image, Progress, Stopped, StopReason, Value


@dataclass
class Recorder:
    """Implements ``Context``. ``stop_at`` counts boundaries from 1; ``latest`` is the last checkpoint."""

    folder: Path
    device: Device = field(default_factory=Device)
    resume: Path | None = None
    stop_at: int | None = None
    reason: StopReason = StopReason.CANCELED
    progress: list[Progress] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    previews: list[Image] = field(default_factory=list)
    latest: Path | None = None

    def __post_init__(self) -> None:
        self._boundaries = itertools.count(1)

    @property
    def scratch(self) -> Path:
        folder = self.folder / "work"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def boundary(self, progress: Progress | None = None) -> None:
        if progress is not None:
            self.progress.append(progress)
        if next(self._boundaries) == self.stop_at:
            raise Stopped(self.reason)

    def share(self, call: Call) -> Any:
        return call.point.compute([call])[0]

    def compute(self, work: Callable[[], Value], doing: str = "computing") -> Value:
        return work()

    def token(self, text: str) -> None:
        self.tokens.append(text)

    def preview(self, image: Image) -> None:
        self.previews.append(image)

    def checkpoint(self, write: Callable[[Path], None]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # several runs of a test may share the folder
        self.latest = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=self.folder))
        write(self.latest)
