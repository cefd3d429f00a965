"""What lies beside the shards of a data set: its tokenizer, and the table of its documents."""

import json
from collections.abc import Iterator
from pathlib import Path

from fluxcore.data.parts import Part, Parts
from fluxcore.data.tokenise import DOCUMENTS_FILE, TOKENIZER_FILE
from fluxcore.durable import naming, sync


def take_along(parts: Parts, target: Path) -> None:
    """Copy the tokenizer and the documents of `parts` to `target`, each where it is there and was not copied before.

    The documents of several data sets have the ids that the chunks have among all.

    Raises:
        OSError: they cannot be read or written.
        ValueError: a table of documents is not JSON.
    """
    having = [part for part in parts if (part.data.path / TOKENIZER_FILE).is_file()]
    if having and not (target / TOKENIZER_FILE).exists():
        _publish(target / TOKENIZER_FILE, iter([(having[0].data.path / TOKENIZER_FILE).read_bytes()]))
    having = [part for part in parts if (part.data.path / DOCUMENTS_FILE).is_file()]
    if having and not (target / DOCUMENTS_FILE).exists():
        _publish(target / DOCUMENTS_FILE, (line for part in having for line in _documents(part)))


def _documents(part: Part) -> Iterator[bytes]:
    with (part.data.path / DOCUMENTS_FILE).open("rb") as table:
        for line in table:
            if part.doc_base:
                entry = json.loads(line)
                entry["doc_id"] += part.doc_base
                yield json.dumps(entry, ensure_ascii=False).encode() + b"\n"
            else:
                yield line


def _publish(path: Path, pieces: Iterator[bytes]) -> None:
    """Write a file that is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with naming(temporary), temporary.open("wb") as file:
            file.writelines(pieces)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
