"""Data sets made of text when a run first asks for them, and kept for the runs that follow."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from fluxcore.data.text import EMBEDDED_SOURCES, Corpus, embedded, files, in_parts, join
from fluxcore.data.tokenise import tokenise
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.training.config import ConfigError, ConfigFile
from fluxcore.training.hub_source import HubSource

log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class TextConfig(ConfigFile):
    """Text that is tokenised before the first run, into a folder below `cache` that later runs find."""

    name: ClassVar[str] = "text"
    sources: list[str] = field(default_factory=list)
    """Files and folders; `embedded` or `embedded:NAME`, text of this Python installation; `hub:NAME`, `datasets`."""
    hub: list[HubSource] = field(default_factory=list)
    """More data sets of the hub, each with a column and an adapter of its own."""
    column: str = "text"
    """Of `hub:` sources, JSON Lines and Parquet."""
    hub_config: str | None = None
    """Of `hub:` sources: the data set's own configuration."""
    split: str = "train"
    """Of `hub:` sources, for example train[:1%]."""
    budget_bytes: int = 1 << 20
    """Of embedded sources: at most so much of each."""
    part_bytes: int = 0
    """Longer texts are cut at blank lines into documents of about so many bytes, so that one book can be held out in
    part; 0: they stay whole."""
    tokenizer: str | None = None
    """tokenizer.json, a folder with one, or a name on the hub. None: byte-level BPE trained on the text."""
    vocab_size: int = 32_000
    """Of the tokenizer that is trained."""
    cache: Path = Path("outputs/data")
    """Folder that tokenised text is kept in, for the runs that follow."""

    def __post_init__(self) -> None:
        self.coerce()
        for name, least in (("budget_bytes", 1), ("part_bytes", 0), ("vocab_size", 257)):
            if getattr(self, name) < least:
                raise ValueError(f"`text.{name}` must be >= {least}, got {getattr(self, name)}")

    @property
    def given(self) -> bool:
        """Whether there is a source."""
        return bool(self.sources or self.hub)

    def corpus(self) -> Corpus:
        """The text itself.

        Raises:
            ConfigError: no source, or an unknown one; OSError, ValueError: one that cannot be read.
        """
        if not self.given:
            raise ConfigError("`text.sources` must name at least one source, got none")
        found = join([self.source(spec) for spec in self.sources] + [each.corpus() for each in self.hub])
        return in_parts(found, self.part_bytes) if self.part_bytes else found

    def source(self, spec: str) -> Corpus:
        """The text of one of `sources`."""
        kind, _, name = spec.partition(":")
        if kind == "embedded" and (not name or name in EMBEDDED_SOURCES):
            return embedded([name] if name else None, budget_bytes=self.budget_bytes)
        if kind == "embedded":
            raise ConfigError(f"`text.sources` must be among {', '.join(EMBEDDED_SOURCES)}, got {spec!r}")
        if kind == "hub":
            return self.hub_source(spec).corpus()
        return files(spec, column=self.column)

    def hub_source(self, spec: str) -> HubSource:
        """A `hub:NAME` of `sources`, with the keys that all of them share."""
        path = spec.removeprefix("hub:")
        return HubSource(path=path, config=self.hub_config, split=self.split, column=self.column)

    def paths(self) -> list[Path]:
        """The files and folders that are read."""
        return [Path(spec) for spec in self.sources if not spec.startswith(("embedded", "hub:"))]

    def identity(self) -> dict[str, Any]:
        """The keys that the data set follows from."""
        return {key: value for key, value in self.to_dict().items() if key != "cache"}

    def folder(self, chunk_tokens: int) -> Path:
        """Where the data set of these keys is kept; other keys, or files that changed, have another folder."""
        files_seen = [
            (str(path), path.stat().st_size, path.stat().st_mtime_ns)
            for given in self.paths()
            for path in [given, *sorted(given.rglob("*"))]
            if path.is_file()
        ]
        text = json.dumps([self.identity(), chunk_tokens, files_seen])
        return self.cache / hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def prepare(self, chunk_tokens: int) -> Path:
        """Tokenise the text, unless that is done; the folder of shards, with `tokenizer.json`.

        Args:
            chunk_tokens: Tokens a chunk.
        Raises:
            ConfigError, OSError, ValueError: text or a tokenizer that is missing or cannot be read.
        """

        def write(folder: Path) -> None:
            corpus = self.corpus()
            if self.tokenizer is None:
                tokenizer = Tokenizer.train(corpus, vocab_size=self.vocab_size)
            else:
                tokenizer = Tokenizer.load(self.tokenizer)
            tokenise(corpus, folder, tokenizer, chunk_tokens=chunk_tokens)

        return made_once(self.folder(chunk_tokens), write)


def made_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """Make a folder unless it is there; it appears when all in it is done, and a killed attempt begins anew.

    Args:
        folder: What later runs look for.
        write: Writes into the folder that it is given, which does not exist yet.
    """
    if folder.exists():
        return folder
    log.info("preparing the data set in %s", folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        write(unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():  # another process was faster, with the same
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder
