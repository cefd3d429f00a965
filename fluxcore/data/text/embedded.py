"""The text that every Python installation carries, as sources whose statistics differ.

Nothing is downloaded, and one installation always gives the same documents. Equal texts (licences above all) are taken
once, so that a split by document does not put the same text on both sides.
"""

import email
import hashlib
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fluxcore.data.text.corpus import Corpus, Document, digest

_NOT_LIBRARY = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "pydoc_data"})
_LICENCE_NAMES = ("licen", "copying", "notice", "authors")  # as they begin, in lower case
_LARGEST_DOCUMENT_BYTES = 256 * 1024  # beyond it stand generated tables, and one would eat a small budget


@dataclass(frozen=True, slots=True)
class _Candidate:
    name: str
    read: Callable[[], bytes]


def embedded(
    sources: tuple[str, ...] | list[str] | None = None, *, budget_bytes: int = 1 << 20, seed: int = 0
) -> Corpus:
    """The corpus that is always there: code, reference prose, C headers, licences and package descriptions.

    | source | text |
    |---|---|
    | `stdlib` | modules of the standard library, without its tests |
    | `reference` | the language reference that `help()` shows, a document a topic |
    | `headers` | C headers of Python |
    | `documents` | licences and descriptions of installed packages; the system's licences where present |

    Args:
        sources: which of them; None for all that this installation has.
        budget_bytes: at most so much of each source. Documents are drawn by a hash of `seed` and their name, one that
            would go over the budget is passed over, and what was drawn is sorted by name.
        seed: another seed draws other documents.
    Raises:
        ValueError: an unknown source, or no document fits.
    """
    if budget_bytes <= 0:
        raise ValueError(f"`budget_bytes` must be > 0, got {budget_bytes}")
    wanted = tuple(EMBEDDED_SOURCES) if sources is None else tuple(dict.fromkeys(sources))
    unknown = [source for source in wanted if source not in EMBEDDED_SOURCES]
    if unknown:
        raise ValueError(f"`sources` must be among {', '.join(EMBEDDED_SOURCES)}, got {unknown[0]!r}")
    documents = [document for source in wanted for document in _draw(source, budget_bytes, seed)]
    found = {document.source for document in documents}
    missing = [source for source in wanted if source not in found]
    if not documents or (sources is not None and missing):
        raise ValueError(
            f"this Python installation has no text of {', '.join(missing)} that fits in {budget_bytes} bytes"
            "\n\nRaise `budget_bytes`, choose other `sources`, or use your own text."
        )
    return _Embedded(tuple(documents), tuple(source for source in wanted if source in found))


class _Embedded(Corpus):
    def __init__(self, documents: tuple[Document, ...], sources: tuple[str, ...]) -> None:
        self.sources = sources
        self.size_bytes = sum(len(document.text.encode()) for document in documents)
        self._documents = documents

    @property
    def identity(self) -> str:
        """By the text itself, which is in memory."""
        return digest("embedded", [(document.source, document.name, document.text) for document in self._documents])

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents)


def _draw(source: str, budget_bytes: int, seed: int) -> list[Document]:
    def rank(candidate: _Candidate) -> bytes:
        return hashlib.blake2b(f"{seed}/{source}/{candidate.name}".encode(), digest_size=16).digest()

    drawn: list[Document] = []
    seen: set[bytes] = set()
    left = budget_bytes
    for candidate in sorted(EMBEDDED_SOURCES[source](), key=rank):
        data = candidate.read()
        digest = hashlib.blake2b(data.strip(), digest_size=16).digest()
        if not data.strip() or len(data) > min(left, _LARGEST_DOCUMENT_BYTES) or digest in seen:
            continue
        try:
            text = data.decode()
        except UnicodeDecodeError:  # a few files are in older encodings on purpose; there is plenty without them
            continue
        seen.add(digest)
        left -= len(data)
        drawn.append(Document(text, source, candidate.name))
    return sorted(drawn, key=lambda document: document.name)


def _below(root: Path, pattern: str, skip: frozenset[str] = frozenset()) -> Iterator[_Candidate]:
    for path in root.rglob(pattern):
        inside = path.relative_to(root)
        if not skip.intersection(inside.parts) and path.is_file():
            yield _Candidate(inside.as_posix(), path.read_bytes)


def _stdlib() -> Iterator[_Candidate]:
    for candidate in _below(Path(sysconfig.get_path("stdlib")), "*.py", _NOT_LIBRARY):
        if not Path(candidate.name).name.startswith("_sysconfigdata"):  # says how this Python was built
            yield candidate


def _reference() -> Iterator[_Candidate]:
    from pydoc_data.topics import topics

    for topic, text in topics.items():
        yield _Candidate(topic, text.encode)


def _headers() -> Iterator[_Candidate]:
    yield from _below(Path(sysconfig.get_path("include")), "*.h")


def _documents() -> Iterator[_Candidate]:
    for root in sorted({Path(sysconfig.get_path(key)) for key in ("purelib", "platlib")}):
        for folder in root.glob("*.dist-info"):
            for candidate in _below(folder, "*"):
                name = f"{folder.name}/{candidate.name}"
                if candidate.name == "METADATA":
                    yield _Candidate(name, partial(_description, folder / candidate.name))
                elif Path(candidate.name).name.lower().startswith(_LICENCE_NAMES):
                    yield _Candidate(name, candidate.read)
    yield from _below(Path("/usr/share/common-licenses"), "*")
    yield from _below(Path("/usr/share/doc"), "copyright")


def _description(metadata: Path) -> bytes:
    payload = email.message_from_bytes(metadata.read_bytes()).get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


EMBEDDED_SOURCES: dict[str, Callable[[], Iterator[_Candidate]]] = {
    "stdlib": _stdlib,
    "reference": _reference,
    "headers": _headers,
    "documents": _documents,
}
"""Name of each source, and what finds its documents."""
