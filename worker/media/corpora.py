"""A text file of documents that somebody sent, as tokens. In a decoder only."""

from __future__ import annotations

import array
import struct
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, BinaryIO

from worker.media.bpe import train
from worker.media.wire import Files, Report, Undecodable

#: bytes of a corpus: a core turns some millions of them into tokens in a second
MAX_BYTES = 256 * 2**20
MAX_DOCUMENTS = 2_000_000
#: bytes of a document, and so of its longest line
MAX_DOCUMENT = 2**20
#: documents that are encoded at once
_BATCH = 256
#: the answer of ``read_corpus``: tokens, documents, and whether some document is a conversation
COUNTS = struct.Struct(">QQ?")


def read_corpus(files: Files, arguments: Mapping[str, Any], report: Report) -> bytes:
    """Writes all documents in one row of tokens, int32 in this machine's byte order, with the token ``end``
    before, between and behind them, and the tokenizer, which is trained as ``tokenizer`` says, or is the
    second source.

    Raises Undecodable for a text that is empty, not UTF-8, or beyond the limits."""
    from tokenizers import Tokenizer

    corpus = files.sources[0]
    count, chat = _looked_over(corpus, report)
    if (plan := arguments["tokenizer"]) is None:
        tokenizer = Tokenizer.from_str(files.sources[1].read().decode())
    else:
        tokenizer = train(plan, _told(corpus, report, count, 1))
    files.targets[1].write(tokenizer.to_str().encode())
    tokens = 1
    told = _told(corpus, report, count, 2)
    while batch := list(islice(told, _BATCH)):
        row = array.array("i", (i for encoding in tokenizer.encode_batch_fast(batch) for i in encoding.ids))
        files.targets[0].write(row.tobytes())
        tokens += len(row)
    if (end := tokenizer.token_to_id(arguments["end"])) is None:
        raise Undecodable("cannot be read with this tokenizer, which knows no end of a document")
    files.targets[0].write(array.array("i", [end]).tobytes())
    return COUNTS.pack(tokens, count, chat)


def documents(corpus: BinaryIO) -> Iterator[str]:
    """The documents of a corpus, parted by blank lines. Raises Undecodable."""
    corpus.seek(0)
    found: list[str] = []
    done = size = 0
    while line := corpus.readline(MAX_DOCUMENT + 1):
        text = _text(line, done)
        done, size = done + len(line), size + len(line)
        if size > MAX_DOCUMENT:
            raise Undecodable(
                f"has a document of more than {MAX_DOCUMENT // 2**20} MiB at byte {done - size}; "
                "part documents by blank lines"
            )
        if done > MAX_BYTES:
            raise Undecodable(f"has more than the {MAX_BYTES // 2**20} MiB that are allowed; send less")
        ended = text.endswith("\n")
        text = text.removesuffix("\r\n").removesuffix("\n")
        if text or not ended:
            found.append(text)
            continue
        if document := "\n".join(found).strip():
            yield document
        found, size = [], 0
    if document := "\n".join(found).strip():
        yield document


def _text(line: bytes, start: int) -> str:
    try:
        return line.removeprefix(b"\xef\xbb\xbf").decode() if start == 0 else line.decode()
    except UnicodeDecodeError as error:
        raise Undecodable(
            f"is not UTF-8 text (byte {start + error.start}); convert it, say with iconv"
        ) from None


def _looked_over(corpus: BinaryIO, report: Report) -> tuple[int, bool]:
    """How many documents there are, and whether some are conversations; all of it keeps to the limits."""
    count, chat = 0, False
    for count, document in enumerate(documents(corpus), 1):
        chat = chat or document.startswith("User: ")
        if count > MAX_DOCUMENTS:
            raise Undecodable(f"has more than the {MAX_DOCUMENTS} documents that are allowed; send less")
    if not count:
        raise Undecodable("is empty; give documents separated by a blank line")
    report(0, count)
    return count, chat


def _told(corpus: BinaryIO, report: Report, count: int, half: int) -> Iterator[str]:
    """The documents, which are gone through twice: progress is half done with the first ``half``."""
    for index, document in enumerate(documents(corpus)):
        report((count * (half - 1) + index) // 2, count)
        yield document
