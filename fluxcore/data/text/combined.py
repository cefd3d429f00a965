"""Corpora made of corpora: several as one, and long texts in parts."""

from collections.abc import Iterator, Sequence

from fluxcore.data.text.corpus import Corpus, Document, digest


def join(corpora: Sequence[Corpus]) -> Corpus:
    """The documents of several corpora, one after the other.

    Raises:
        ValueError: none is given, or two have a source of the same name.
    """
    if not corpora:
        raise ValueError("`corpora` must hold at least one corpus, got none")
    sources = [source for corpus in corpora for source in corpus.sources]
    for index, source in enumerate(sources):
        if source in sources[:index]:
            raise ValueError(f"`corpora` must have different sources, and {source!r} comes twice")
    return _Joined(corpora, tuple(sources))


def in_parts(corpus: Corpus, part_bytes: int) -> Corpus:
    """Long documents in parts that are documents of their own, so that one book can be split into training and test.

    A part ends at the first blank line, or else the first line end, beyond `part_bytes` bytes of UTF-8; joined again
    the parts are the document. Without a line end a text stays whole.

    Args:
        corpus: its sources and the order of its documents stay.
        part_bytes: > 0.
    """
    if part_bytes <= 0:
        raise ValueError(f"`part_bytes` must be > 0, got {part_bytes}")
    return _InParts(corpus, part_bytes)


class _Joined(Corpus):
    def __init__(self, corpora: Sequence[Corpus], sources: tuple[str, ...]) -> None:
        self.sources = sources
        sizes = [corpus.size_bytes for corpus in corpora]
        self.size_bytes = None if None in sizes else sum(size for size in sizes if size is not None)
        self._corpora = corpora

    @property
    def identity(self) -> str | None:
        """Of all of them; None where one has none."""
        identities = [corpus.identity for corpus in self._corpora]
        return None if None in identities else digest("joined", identities)

    def __iter__(self) -> Iterator[Document]:
        for corpus in self._corpora:
            yield from corpus


class _InParts(Corpus):
    def __init__(self, corpus: Corpus, part_bytes: int) -> None:
        self.sources, self.size_bytes = corpus.sources, corpus.size_bytes
        self._corpus, self._part_bytes = corpus, part_bytes

    @property
    def identity(self) -> str | None:
        """Of the corpus and the size of a part."""
        whole = self._corpus.identity
        return None if whole is None else digest("in parts", whole, self._part_bytes)

    def __iter__(self) -> Iterator[Document]:
        for document in self._corpus:
            parts = list(cut(document.text, self._part_bytes))
            for number, part in enumerate(parts):
                name = f"{document.name}#{number}" if len(parts) > 1 else document.name
                yield Document(part, document.source, name)


def cut(text: str, part_bytes: int) -> Iterator[str]:
    """The parts of a text; an empty text is one part."""
    lines = text.splitlines(keepends=True)
    # Where no line is blank, any line end will do.
    anywhere = not any(line.isspace() for line in lines)
    part: list[str] = []
    size = 0
    for line in lines:
        part.append(line)
        size += len(line.encode())
        if size >= part_bytes and (anywhere or line.isspace()):
            yield "".join(part)
            part, size = [], 0
    if part or not lines:
        yield "".join(part)
