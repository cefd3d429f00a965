"""Folders of Hugging Face `datasets`, to data sets and back."""

import json

import datasets
import numpy as np
import pyarrow as pa
import pytest
from support.data_sets import flip_bit, write_data_set
from support.full_sets import same, write_full
from support.token_files import documents_of, targets_follow, write_arrow

import fluxcore.data
from fluxcore.data import Order, ShardWriter, convert, export
from fluxcore.data.interchange import pieces
from fluxcore.errors import CorruptShardError, MalformedInputError

OPTIONS = {"vocab_size": 1000, "chunk_tokens": 4, "format": "datasets"}
ROWS = [[1, 2, 3, 4, 5], [6], [], [7, 8, 9, 10], [11, 12, 13, 14, 15, 16, 17, 18, 19]]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return write_full(tmp_path_factory.mktemp("full"))


def test_the_round_trip_keeps_everything(full, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "BLOCK_TOKENS", 7 * 6)
    export(full, tmp_path / "out", format="datasets")
    report = convert(tmp_path / "out", tmp_path / "back", format="datasets", vocab_size=70_000, shard_bytes=60_000)
    back = fluxcore.data.open(tmp_path / "back")
    same(full, back)
    back.verify()
    assert back.manifest.parent == full.manifest.hash
    assert (report.chunks, report.tokens) == (40, int(full.column("valid_len").sum()))


def test_datasets_opens_what_was_exported(full, tmp_path):
    export(full, tmp_path / "out", format="datasets")
    rows = datasets.load_from_disk(str(tmp_path / "out"))
    assert len(rows) == len(full)
    for i in (0, 17, 39):
        length = int(full.column("valid_len")[i])
        assert rows[i]["input_ids"] == full[i][:length].tolist()
        assert rows[i]["loss_mask"] == full.token_mask(i)[:length].tolist()
        assert rows[i]["lm.entropy_mean"] == full.column("lm.entropy_mean")[i]
        assert rows[i]["doc_id"] == full.column("doc_id")[i]
        assert rows[i]["next_token"] in (full.column("next_token")[i], -1)
    assert rows.features["input_ids"] == datasets.List(datasets.Value("uint32"))
    rows.select(range(5)).save_to_disk(str(tmp_path / "few"))
    convert(tmp_path / "few", tmp_path / "back", format="datasets", vocab_size=70_000, chunk_tokens=6)
    assert len(fluxcore.data.open(tmp_path / "back")) == 5


def test_full_chunks_are_lists_of_fixed_size(tmp_path):
    with ShardWriter(tmp_path / "set", chunk_tokens=4, vocab_size=99, sources=["s"]) as writer:
        writer.append_batch(
            np.arange(80).reshape(20, 4), sources="s", doc_ids=np.arange(20), doc_offsets=np.zeros(20, int)
        )
    ds = fluxcore.data.open(tmp_path / "set")
    export(ds, tmp_path / "out", format="datasets")
    features = datasets.load_from_disk(str(tmp_path / "out")).features
    assert features["input_ids"] == datasets.List(datasets.Value("uint16"), length=4)
    convert(tmp_path / "out", tmp_path / "back", format="datasets")
    same(ds, fluxcore.data.open(tmp_path / "back"))


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.large_list(pa.uint16()), pa.list_(pa.int32())], ids=str)
def test_rows_are_documents(tmp_path, kind):
    report = convert(write_arrow(tmp_path / "in", ROWS, kind=kind), tmp_path / "set", **OPTIONS)
    ds = fluxcore.data.open(tmp_path / "set")
    assert documents_of(ds) == [row for row in ROWS if row]
    assert targets_follow(ds)
    assert set(ds.column("doc_id").tolist()) == {0, 1, 3, 4}
    assert (report.documents, report.tokens) == (5, 19)


def test_rows_of_fixed_size_and_another_column(tmp_path):
    rows = np.arange(50).reshape(10, 5).tolist()
    write_arrow(tmp_path / "in", rows, kind=pa.list_(pa.int32(), 5), column="ids")
    convert(tmp_path / "in", tmp_path / "set", column="ids", **OPTIONS)
    assert documents_of(fluxcore.data.open(tmp_path / "set")) == rows


def test_what_datasets_saves_itself(tmp_path):
    rows = datasets.Dataset.from_dict({"input_ids": ROWS, "text": ["x"] * 5})
    rows.select([4, 0, 1]).save_to_disk(str(tmp_path / "in"), num_shards=2)
    convert(tmp_path / "in", tmp_path / "set", **OPTIONS)
    assert documents_of(fluxcore.data.open(tmp_path / "set")) == [ROWS[4], ROWS[0], ROWS[1]]
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "dict"))
    with pytest.raises(MalformedInputError, match="It holds several splits: give the folder of one of them"):
        convert(tmp_path / "dict", tmp_path / "other", **OPTIONS)


BAD_ROWS = {
    "null row": ([[1], None, [2]], pa.list_(pa.int64()), "column `input_ids` has 1 values that are null"),
    "null token": ([[1], [3, None]], pa.list_(pa.int64()), "none of them null, it is int64 with 1 nulls"),
    "text": ([["a"], ["b"]], pa.list_(pa.string()), "must hold numbers, none of them null, it is string"),
    "no lists": ([1, 2], pa.int64(), "must hold lists of integers, it is int64"),
    "foreign": ([[1], [1000]], pa.list_(pa.int64()), "token 0 is 1000, not within the vocabulary of 1000"),
    "negative": ([[1], [5, -100]], pa.list_(pa.int64()), "token 1 is -100, not within"),
}


@pytest.mark.parametrize(("rows", "kind", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_rows_that_are_no_tokens_are_refused(tmp_path, rows, kind, message):
    write_arrow(tmp_path / "in", rows, kind=kind)
    with pytest.raises(MalformedInputError, match=message):
        convert(tmp_path / "in", tmp_path / "set", **OPTIONS)
    assert not (tmp_path / "set" / "manifest.json").exists()


def state(change):
    def apply(folder):
        found = json.loads((folder / "state.json").read_text())
        change(found)
        (folder / "state.json").write_text(json.dumps(found))

    return apply


def misname(folder):
    path = folder / "b.arrow"
    path.write_bytes(path.read_bytes().replace(b"input_ids", b"input\xffids"))


BROKEN = {
    "no state": (lambda folder: (folder / "state.json").unlink(), "it has no state.json"),
    "no JSON": (lambda folder: (folder / "state.json").write_text("{"), "is no list of Arrow files"),
    "no list": (state(lambda found: found.pop("_data_files")), "KeyError"),
    "outside": (state(lambda found: found["_data_files"][0].update(filename="../x")), "must be names in this folder"),
    "rearranged": (state(lambda found: found.update(_indices_data_files=[{}])), "`flatten_indices`"),
    "missing": (lambda folder: (folder / "b.arrow").unlink(), "b.arrow`, an Arrow file of the data set, is missing"),
    "cut": (lambda folder: (folder / "b.arrow").write_bytes((folder / "b.arrow").read_bytes()[:300]), "b.arrow` is no"),
    "empty": (lambda folder: (folder / "b.arrow").write_bytes(b""), "b.arrow` is no sound Arrow stream"),
    "column": (lambda folder: (folder / "b.arrow").write_bytes(b"x" * 400), "b.arrow` is no sound Arrow stream"),
    "name": (misname, "b.arrow` is no sound Arrow stream: 'utf-8' codec can't decode byte 0xff"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_folder_is_named(tmp_path, change, message):
    change(write_arrow(tmp_path / "in", ROWS))
    with pytest.raises(MalformedInputError, match=message):
        convert(tmp_path / "in", tmp_path / "set", **OPTIONS)
    assert not (tmp_path / "set" / "manifest.json").exists()


def facts(**changes):
    def apply(folder):
        found = json.loads((folder / "fluxcore.json").read_text())
        (folder / "fluxcore.json").write_text(json.dumps({**found, **changes}))

    return apply


BROKEN_EXPORTS = {
    "version": (facts(version=2), "format 'fluxcore data set', version 2"),
    "type": (facts(chunk_tokens="6"), "'chunk_tokens' is '6'"),
    "sort": (facts(sorted_by=[1, 2]), r"'sorted_by' is \[1, 2\]"),
    "sort column": (facts(sorted_by=["nothing", True]), "`sorted_by` must be one of the score columns"),
    "order": (facts(sorted_by=["lm.entropy_mean", False]), "must ascend|order"),
    "length": (facts(chunk_tokens=5), "a chunk has 1 to 5 tokens, here are 1 to 6"),
    "rows": (facts(chunks=41), "it has 40 rows, fluxcore.json lists 41"),
    "column": (facts(columns={"x": {"dtype": "float32", "definition": ""}}, sorted_by=None), "one column `x`"),
    "sources": (facts(sources=["web"]), r"`source` must be within \[0, 0\]"),
    "tokenizer": (facts(tokenizer="no"), "is not what an export writes"),
    "parent": (facts(manifest="0"), "`parent` must be the hash of a manifest, 32 hexadecimal digits"),
    "huge": (facts(chunk_tokens=1 << 60), "`chunk_tokens` must be <= 16777216, got"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN_EXPORTS.values(), ids=BROKEN_EXPORTS)
def test_a_broken_export_is_named(full, tmp_path, change, message):
    export(full, tmp_path / "in", format="datasets")
    change(tmp_path / "in")
    with pytest.raises(MalformedInputError, match=message):
        convert(tmp_path / "in", tmp_path / "set", format="datasets")
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_an_export_knows_its_own_sizes(full, tmp_path):
    export(full, tmp_path / "in", format="datasets")
    with pytest.raises(ValueError, match="`chunk_tokens` must be 6, as the exported data set has it, got 8"):
        convert(tmp_path / "in", tmp_path / "set", format="datasets", chunk_tokens=8)
    with pytest.raises(ValueError, match="is converted alone, got 2 folders"):
        convert([tmp_path / "in", tmp_path / "in"], tmp_path / "set", format="datasets")


def test_a_corrupt_chunk_is_never_exported(tmp_path):
    ds = write_data_set(tmp_path / "set")
    flip_bit(min((tmp_path / "set").glob("*.fxs")), ds[7].tobytes())
    for kind in ("datasets", "modded-nanogpt"):
        with pytest.raises(CorruptShardError, match="7"):
            export(fluxcore.data.open(ds.path, verify="never"), tmp_path / "out", format=kind)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_a_column_with_a_name_of_the_layout_is_refused(tmp_path):
    ds = write_data_set(tmp_path / "set")
    ds.add_column("input_ids", np.zeros(50, np.float32))
    with pytest.raises(ValueError, match="with a column `input_ids` cannot be written"):
        export(ds, tmp_path / "out", format="datasets")


def test_a_loader_reads_both_alike(full, tmp_path):
    export(full, tmp_path / "out", format="datasets")
    convert(tmp_path / "out", tmp_path / "back", format="datasets")
    ours, theirs = (
        fluxcore.data.Loader(ds, Order.bucketed("lm.entropy_mean"), global_batch_size=5, out="int64")
        for ds in (full, fluxcore.data.open(tmp_path / "back"))
    )
    assert all(bool((a.targets == b.targets).all()) for a, b in zip(ours, theirs, strict=True))
