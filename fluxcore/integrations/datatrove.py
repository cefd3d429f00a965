"""Tokenise, score and sort on many machines, as steps of datatrove's pipelines.

    make = LocalPipelineExecutor([reader, TokeniseStep("parts/", "tokenizer.json", text="web 2024"), score], tasks=8)
    pipelines = sort_pipelines(part_folders("parts/", 8), "sorted/", "ngram.entropy_mean", tasks=8)
    plan = LocalPipelineExecutor(pipelines.plan, tasks=1, depends=make)
    run = LocalPipelineExecutor(pipelines.run, tasks=8, depends=plan)
    LocalPipelineExecutor(pipelines.publish, tasks=1, depends=run).run()

Every executor of datatrove takes the same pipelines. All folders lie on one file system that every machine sees.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from fluxcore.data import SortJob
from fluxcore.data import open as open_data_set
from fluxcore.data.manifest import MANIFEST_NAME
from fluxcore.data.text.corpus import Corpus, Document
from fluxcore.data.tokenise import TokeniseReport, shards_identity, tokenise
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.errors import require
from fluxcore.scoring import Scorer, score

PipelineStep: Any = require("datatrove.pipeline.base", extra="datatrove").PipelineStep


def part_folders(folder: str | PathLike[str], tasks: int) -> list[Path]:
    """The data sets that `tasks` ranks of a `TokeniseStep` write into `folder`, `part-00000` and so on."""
    return [Path(folder) / f"part-{rank:05d}" for rank in range(tasks)]


class TokeniseStep(PipelineStep):  # type: ignore[misc]
    """Each rank writes the documents that the reader hands it as one data set, by `fluxcore.data.tokenise`.

    What a part holds follows from the documents of its rank alone; which these are is the reader's choice, so that
    other numbers of tasks give other parts. A rank without documents writes a part without chunks. Run again, a
    finished part is kept, and one that was cut off goes on behind its last full shard.

    Args:
        folder: where the parts go, see `part_folders`.
        tokenizer: `tokenizer.json`, a folder with it, or a name on the Hugging Face hub; each rank loads it.
        text: names what is read: data set, revision, and whatever the documents depend on. Parts of another text, or
            of another number of tasks, are told by it, and not gone on with.
        sources: names of the sources, the same for all parts.
        source_key: key of a document's metadata with the name of its source; None where there is one source.
        chunk_tokens: tokens a chunk; this and what follows as in `fluxcore.data.tokenise.tokenise`.
        min_chunk_tokens: shorter ends of documents are dropped.
        dtype: "uint8", "uint16" or "uint32"; None for the smaller of the last two that fits.
        append_end: end each document with the tokenizer's end token, where it has one.
        shard_bytes: size of a shard file.
    Raises:
        ValueError: several sources without a `source_key`; in `run`: no documents come in, or one without its source.
        FileExistsError: in `run`: a part of another text or tokenizer stands there.
    """

    type = "fluxcore"
    name = "tokenise"

    def __init__(
        self,
        folder: str | PathLike[str],
        tokenizer: str | PathLike[str],
        *,
        text: str,
        sources: Sequence[str] = ("text",),
        source_key: str | None = None,
        chunk_tokens: int = 1024,
        min_chunk_tokens: int = 2,
        dtype: str | None = None,
        append_end: bool = True,
        shard_bytes: int = 1 << 30,
    ) -> None:
        super().__init__()
        if source_key is None and len(sources) != 1:
            raise ValueError(f"`sources` must be one name without a `source_key`, got {list(sources)}")
        self.folder, self.tokenizer, self.text = str(folder), str(tokenizer), text
        self.sources, self.source_key = tuple(sources), source_key
        self.options: dict[str, Any] = {
            "chunk_tokens": chunk_tokens,
            "min_chunk_tokens": min_chunk_tokens,
            "dtype": dtype,
            "append_end": append_end,
            "shard_bytes": shard_bytes,
        }

    def run(self, data: Iterable[Any] | None, rank: int = 0, world_size: int = 1) -> None:
        """Write the part of `rank`; no documents come out."""
        if data is None:
            raise ValueError("`data` must be documents, got None\n\nPut a reader of datatrove before the TokeniseStep.")
        path = part_folders(self.folder, world_size)[rank]
        corpus = _Documents(data, self, f"datatrove/{self.text}/{rank}/{world_size}/{self.sources}")
        tokenizer = Tokenizer.load(self.tokenizer)
        with self.track_time():
            uuid = shards_identity(corpus, tokenizer, **self.options)
            if (path / MANIFEST_NAME).exists() and uuid is not None and open_data_set(path).uuid == uuid.hex:
                return
            self._count(tokenise(corpus, path, tokenizer, allow_empty=True, **self.options))

    def _count(self, report: TokeniseReport) -> None:
        for fact in ("documents", "chunks", "tokens", "empty_documents", "short_documents", "dropped_tokens"):
            self.stat_update(fact, value=getattr(report, fact), unit="part")


class ScoreStep(PipelineStep):  # type: ignore[misc]
    """Each rank scores one part, by `fluxcore.scoring.score`; run again, it goes on where it was.

    It takes as many tasks as the `TokeniseStep`, in whose pipeline it may stand. Scores can be compared, and the parts
    sorted into one, where every rank has one and the same scorer.

    Args:
        folder: of the parts.
        scorer: a scorer, or a function without arguments that makes one, called by each rank: a language model is then
            loaded where it runs, and not sent there.
        prefix: first part of the columns' names.
        batch_size: chunks at once.
    """

    type = "fluxcore"
    name = "score"

    def __init__(
        self,
        folder: str | PathLike[str],
        scorer: Scorer | Callable[[], Scorer],
        *,
        prefix: str = "lm",
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        self.folder, self.scorer = str(folder), scorer
        self.prefix, self.batch_size = prefix, batch_size

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Score the part of `rank`; `data` is what a step before it leaves, nothing after a `TokeniseStep`."""
        ds = open_data_set(part_folders(self.folder, world_size)[rank])
        if len(ds) == 0:
            return
        with self.track_time():
            scorer = self.scorer if isinstance(self.scorer, Scorer) else self.scorer()
            report = score(ds, scorer, prefix=self.prefix, batch_size=self.batch_size)
            self.stat_update("chunks", value=report.chunks, unit="part")


class PlanSortStep(PipelineStep):  # type: ignore[misc]
    """One rank plans a sort: arguments as `fluxcore.data.SortJob.plan`."""

    type = "fluxcore"
    name = "plan a sort"

    def __init__(
        self, src: Sequence[str | PathLike[str]], dst: str | PathLike[str], column: str, **options: Any
    ) -> None:
        super().__init__()
        self.src, self.dst, self.column = [str(path) for path in src], str(dst), column
        self.options = options

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Plan; ValueError where there is more than one rank."""
        _check_alone(self.name, world_size)
        with self.track_time():
            SortJob.plan(self.src, self.dst, self.column, **self.options)


class SortStep(PipelineStep):  # type: ignore[misc]
    """Rank r of w runs the tasks r, r + w, ... of the sort that is planned into `dst`."""

    type = "fluxcore"
    name = "sort"

    def __init__(self, dst: str | PathLike[str]) -> None:
        super().__init__()
        self.dst = str(dst)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Run the tasks of `rank`."""
        job = SortJob(self.dst)
        with self.track_time():
            for task in range(rank, job.tasks, world_size):
                job.run(task)
                self.stat_update("tasks")


class PublishSortStep(PipelineStep):  # type: ignore[misc]
    """One rank publishes the sort that is planned into `dst`, once all its tasks are done."""

    type = "fluxcore"
    name = "publish a sort"

    def __init__(self, dst: str | PathLike[str]) -> None:
        super().__init__()
        self.dst = str(dst)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Publish; ValueError where there is more than one rank."""
        _check_alone(self.name, world_size)
        SortJob(self.dst).publish()


@dataclass(frozen=True, slots=True)
class SortPipelines:
    """Three pipelines, each for an executor of its own that depends on the one before."""

    plan: list[Any]
    """With `tasks=1`."""
    run: list[Any]
    """With any number of tasks up to that of the sort."""
    publish: list[Any]
    """With `tasks=1`."""


def sort_pipelines(
    src: Sequence[str | PathLike[str]],
    dst: str | PathLike[str],
    column: str,
    descending: bool = False,
    *,
    tasks: int,
    memory_bytes: int = 1 << 30,
    shard_bytes: int = 1 << 30,
) -> SortPipelines:
    """Pipelines that sort data sets, such as `part_folders`, into one; see `fluxcore.data.SortJob.plan`."""
    options = {"descending": descending, "tasks": tasks, "memory_bytes": memory_bytes, "shard_bytes": shard_bytes}
    return SortPipelines([PlanSortStep(src, dst, column, **options)], [SortStep(dst)], [PublishSortStep(dst)])


class _Documents(Corpus):
    """The documents of one rank, which can be read once."""

    def __init__(self, documents: Iterable[Any], step: TokeniseStep, identity: str) -> None:
        self.sources = step.sources
        self._documents, self._key, self._identity = documents, step.source_key, identity

    @property
    def identity(self) -> str:
        """Tells the text, by the name that the user gave it, and the rank's share of it."""
        return self._identity

    def __iter__(self) -> Iterator[Document]:
        for document in self._documents:
            yield Document(document.text, self._source(document), str(document.id))

    def _source(self, document: Any) -> str:
        if self._key is None:
            return self.sources[0]
        source = document.metadata.get(self._key)
        if source not in self.sources:
            raise ValueError(
                f"metadata[`{self._key}`] of document {document.id!r} must be one of the `sources`"
                f" {list(self.sources)[:20]}, got {source!r}"
            )
        return str(source)


def _check_alone(name: str, world_size: int) -> None:
    if world_size != 1:
        raise ValueError(f"the step `{name}` must run as one task, got {world_size}\n\nGive its executor tasks=1.")
