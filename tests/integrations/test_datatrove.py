"""Tokenised, scored and sorted by datatrove's local executor, a text is what one process makes of it."""

import json
from functools import partial

import numpy as np
import pytest

import fluxcore.data
from fluxcore.data import sort
from fluxcore.data.text.corpus import Corpus, Document
from fluxcore.data.tokenise import tokenise
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.scoring import CompressionScorer, NGramScorer, score

pytest.importorskip("datatrove")
from datatrove.data import Document as TroveDocument
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import ParquetReader
from datatrove.utils.logging import logger

from fluxcore.integrations.datatrove import (
    PublishSortStep,
    ScoreStep,
    SortStep,
    TokeniseStep,
    part_folders,
    sort_pipelines,
)

RANKS = 4
COLUMN = "zlib.bits_per_byte"


@pytest.fixture(autouse=True)
def _quiet():
    logger.disable("datatrove")
    yield
    logger.enable("datatrove")


def texts(rank):
    """Documents of one file; the last one is short, but no document is without a chunk."""
    rng = np.random.default_rng(rank)
    words = ["entropy", "order", "shard", "loader", "token", "chunk", "sort", "merge", "rank", "task"]
    return [" ".join(rng.choice(words, rng.integers(2, 120))) for _ in range(12)]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Four Parquet files, a tokenizer trained on them, and a function that makes a scorer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("text")
    (folder / "files").mkdir()
    for rank in range(RANKS):
        table = pa.table({"text": texts(rank), "id": [f"{rank}/{i}" for i in range(12)]})
        pq.write_table(table, folder / "files" / f"{rank}.parquet")
    (folder / "tokenizer.json").write_text(Tokenizer.train(Whole(), vocab_size=300).to_json())
    return folder


class Whole(Corpus):
    """The same documents for one process."""

    sources = ("text",)

    def __iter__(self):
        for rank in range(RANKS):
            yield from (Document(text, "text", f"{rank}/{i}") for i, text in enumerate(texts(rank)))


def make_scorer(folder):
    return CompressionScorer(Tokenizer.load(folder / "tokenizer.json"), codec="zlib")


def make_parts(text, out, *, workers=1, logs="make"):
    """Parts of four ranks in `out`, tokenised and scored."""
    pipeline = [
        ParquetReader(str(text / "files"), batch_size=5),
        TokeniseStep(out / "parts", text / "tokenizer.json", text="a test", chunk_tokens=16, append_end=False),
        ScoreStep(out / "parts", partial(make_scorer, text), prefix="zlib"),
    ]
    LocalPipelineExecutor(
        pipeline, tasks=RANKS, workers=workers, logging_dir=str(out / logs), start_method="fork"
    ).run()
    return part_folders(out / "parts", RANKS)


def run_sort(parts, out, *, tasks, workers, executor_tasks=None):
    pipelines = sort_pipelines(parts, out / "sorted", COLUMN, True, tasks=tasks, shard_bytes=60_000)
    before = None
    for name, ranks in (("plan", 1), ("run", executor_tasks or tasks), ("publish", 1)):
        before = LocalPipelineExecutor(
            getattr(pipelines, name), tasks=ranks, workers=min(workers, ranks), depends=before,
            logging_dir=str(out / name), start_method="fork",
        )  # fmt: skip
    before.run()
    return out / "sorted"


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


@pytest.fixture(scope="module")
def parts(text, tmp_path_factory):
    return make_parts(text, tmp_path_factory.mktemp("one worker"))


def test_parts_do_not_depend_on_the_workers_nor_on_a_second_run(text, parts, tmp_path):
    ours = make_parts(text, tmp_path, workers=2)
    assert [files_of(path) for path in ours] == [files_of(path) for path in parts]
    inodes = [path.stat().st_ino for part in ours for path in sorted(part.iterdir())]
    make_parts(text, tmp_path, logs="make again")  # which knows nothing of the first
    assert [path.stat().st_ino for part in ours for path in sorted(part.iterdir())] == inodes


def test_together_the_parts_are_what_one_process_makes(text, parts, tmp_path):
    tokenizer = Tokenizer.load(text / "tokenizer.json")
    tokenise(Whole(), tmp_path / "whole", tokenizer, chunk_tokens=16, append_end=False)
    whole = fluxcore.data.open(tmp_path / "whole")
    score(whole, make_scorer(text), prefix="zlib")
    sort(whole, tmp_path / "whole sorted", COLUMN)
    sort(parts, tmp_path / "parts sorted", COLUMN)
    one, other = (fluxcore.data.open(tmp_path / f"{name} sorted") for name in ("whole", "parts"))
    assert len(one) > 100
    assert one.columns == other.columns
    for name in one.columns:
        assert one.column(name).tolist() == other.column(name).tolist(), name
    assert [one[i].tolist() for i in range(len(one))] == [other[i].tolist() for i in range(len(one))]
    table = (tmp_path / "parts sorted" / "documents.jsonl").read_text()
    assert table == (tmp_path / "whole" / "documents.jsonl").read_text()


@pytest.mark.parametrize(("tasks", "workers", "executor_tasks"), [(4, 1, None), (3, 2, None), (5, 1, 2)])
def test_the_sort_has_the_same_bytes_whatever_the_tasks(parts, tmp_path, tasks, workers, executor_tasks):
    sort(parts, tmp_path / "expected", COLUMN, True, shard_bytes=60_000)
    found = run_sort(parts, tmp_path, tasks=tasks, workers=workers, executor_tasks=executor_tasks)
    assert files_of(found) == files_of(tmp_path / "expected")
    assert len(fluxcore.data.open(found).manifest.shards) > 2


def test_what_a_step_did_is_in_the_statistics(parts):
    stats = json.loads((parts[0].parents[1] / "make" / "stats.json").read_text())
    steps = {step["name"]: step["stats"] for step in stats}
    assert steps["fluxcore: tokenise"]["documents"]["total"] == 12 * RANKS
    chunks = sum(len(fluxcore.data.open(path)) for path in parts)
    assert steps["fluxcore: tokenise"]["chunks"]["total"] == steps["fluxcore: score"]["chunks"]["total"] == chunks


def test_a_rank_without_documents_leaves_a_part_without_chunks(text, tmp_path):
    step = TokeniseStep(tmp_path, text / "tokenizer.json", text="half of it", chunk_tokens=16)
    documents = [TroveDocument(text=words, id=str(i)) for i, words in enumerate(texts(0))]
    for rank, own in enumerate([documents, [], [TroveDocument(text=" ", id="blank")]]):
        step.run(own, rank, 3)
    scorer = NGramScorer.fit(fluxcore.data.open(tmp_path / "part-00000"), order=2)
    for rank in range(3):
        ScoreStep(tmp_path, scorer, prefix="ngram").run(None, rank, 3)
    parts = part_folders(tmp_path, 3)
    assert [len(fluxcore.data.open(part)) > 0 for part in parts] == [True, False, False]
    result = sort(parts, tmp_path / "sorted", "ngram.entropy_mean")
    assert result.chunks == len(fluxcore.data.open(parts[0]))


def test_sources_come_from_the_metadata(text, tmp_path):
    step = TokeniseStep(
        tmp_path, text / "tokenizer.json", text="two sources", sources=("web", "code"), source_key="from"
    )
    documents = [TroveDocument(text="a b c d", id=str(i), metadata={"from": ("code", "web")[i % 2]}) for i in range(4)]
    step.run(documents, 0, 1)
    ds = fluxcore.data.open(tmp_path / "part-00000")
    assert [ds.sources[number] for number in ds.column("source")] == ["code", "web", "code", "web"]
    documents[2].metadata["from"] = "books"
    with pytest.raises(ValueError, match=r"metadata\[`from`\] of document '2' must be one of the `sources`.*'books'"):
        step.run(documents, 1, 2)
    with pytest.raises(ValueError, match="`sources` must be one name without a `source_key`"):
        TokeniseStep(tmp_path, "t", text="two", sources=("web", "code"))


def test_parts_of_another_text_or_number_of_tasks_are_not_written_over(text, parts):
    folder, documents = parts[0].parent, [TroveDocument(text="a b c", id="0")]
    for name, ranks in (("another test", RANKS), ("a test", RANKS + 1)):
        step = TokeniseStep(folder, text / "tokenizer.json", text=name, chunk_tokens=16, append_end=False)
        with pytest.raises(FileExistsError, match="holds a data set already"):
            step.run(documents, 0, ranks)


def test_steps_that_are_put_together_wrongly_say_so(text, tmp_path):
    with pytest.raises(ValueError, match="Put a reader of datatrove before the TokeniseStep"):
        TokeniseStep(tmp_path, text / "tokenizer.json", text="none").run(None, 0, 1)
    with pytest.raises(ValueError, match="the step `publish a sort` must run as one task, got 2"):
        PublishSortStep(tmp_path).run(None, 0, 2)
    with pytest.raises(ValueError, match="the step `plan a sort` must run as one task, got 3"):
        sort_pipelines([tmp_path], tmp_path, COLUMN, tasks=1).plan[0].run(None, 0, 3)
    with pytest.raises(FileNotFoundError, match="no sort by tasks is planned"):
        SortStep(tmp_path).run(None, 0, 1)
