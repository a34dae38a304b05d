"""What a decoding child can do: its parent asks for a task by its name here. In a decoder only."""

from __future__ import annotations

from collections.abc import Mapping

from worker.media.corpora import read_corpus
from worker.media.datasets import read_pictures
from worker.media.pictures import read_picture
from worker.media.wire import Task

#: sound and video get a task each when models take them
TASKS: Mapping[str, Task] = {
    "picture": read_picture,
    "pictures": read_pictures,
    "corpus": read_corpus,
}
