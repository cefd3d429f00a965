"""HDF5 files of chunks, to data sets and back."""

import numpy as np
import pytest
from support.command_line import succeeds
from support.full_sets import same, write_full
from support.token_files import documents_of, targets_follow

import fluxcore.data
from fluxcore.data import convert, export
from fluxcore.data.interchange import hdf5, pieces
from fluxcore.errors import CorruptShardError, MalformedInputError

h5py = pytest.importorskip("h5py")

TOKENS = np.arange(36).reshape(9, 4).astype(np.int32)
DOCUMENTS = [0, 0, 1, 2, 2, 2, 0, 4, 4]
CATEGORIES = ["cs.DS", "cs.DS", "math.ST", "cs.DS", "cs.DS", "cs.DS", "math.ST", "cs.IT", "cs.IT"]
OPTIONS = {"format": "hdf5", "vocab_size": 50}


def write(path, *, tokens=TOKENS, documents=DOCUMENTS, categories=CATEGORIES):
    with h5py.File(path, "w") as file:
        file["token_chunks"] = tokens
        file["doc_idx_for_chunk"] = documents
        if categories is not None:
            file["category_for_chunk"] = categories
        file.attrs["chunk_size"] = 4
    return path


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return write_full(tmp_path_factory.mktemp("full"))


def test_the_round_trip_keeps_everything(full, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "BLOCK_TOKENS", 7 * 6)
    monkeypatch.setattr(hdf5, "BLOCK_TOKENS", 11 * 6)
    export(full, tmp_path / "out", format="hdf5")
    report = convert(tmp_path / "out", tmp_path / "back", format="hdf5", vocab_size=70_000, shard_bytes=60_000)
    back = fluxcore.data.open(tmp_path / "back")
    same(full, back)
    back.verify()
    assert back.manifest.parent == full.manifest.hash
    assert (report.chunks, report.tokens) == (40, int(full.column("valid_len").sum()))


def test_an_export_has_the_usual_layout(full, tmp_path):
    export(full, tmp_path / "out", format="hdf5")
    with h5py.File(tmp_path / "out" / "chunks.h5") as file:
        assert file["token_chunks"].dtype == np.int32
        assert file["token_chunks"].shape == (40, 6)
        assert file["token_chunks"][17].tolist() == full[17].tolist()
        assert file["doc_idx_for_chunk"][:].tolist() == full.column("doc_id").tolist()
        assert file["category_for_chunk"].asstr()[3] == full.sources[full.column("source")[3]]
        assert (file.attrs["num_chunks"], file.attrs["chunk_size"], file.attrs["vocab_size"]) == (40, 6, 70_000)


def test_each_category_is_a_source_and_rows_keep_to_their_documents(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "BLOCK_TOKENS", 8)  # two rows
    report = convert(write(tmp_path / "x.h5"), tmp_path / "set", **OPTIONS)
    ds = fluxcore.data.open(tmp_path / "set")
    assert ds.sources == ["cs.DS", "math.ST", "cs.IT"]
    assert ds.column("source").tolist() == [0] * 5 + [1] * 2 + [2] * 2
    assert ds.chunk_tokens == 4
    rows = [[0, 1], [3, 4, 5], [2], [6], [7, 8]]
    assert documents_of(ds) == [TOKENS[of].ravel().tolist() for of in rows]
    assert targets_follow(ds)
    assert (report.documents, report.chunks, report.tokens) == (5, 9, 36)


def test_a_named_source_takes_the_whole_file_in_its_order(tmp_path):
    convert({"mine": write(tmp_path / "x.h5")}, tmp_path / "set", **OPTIONS, chunk_tokens=6)
    ds = fluxcore.data.open(tmp_path / "set")
    assert ds.sources == ["mine"]
    rows = [[0, 1], [2], [3, 4, 5], [6], [7, 8]]
    assert documents_of(ds) == [TOKENS[of].ravel().tolist() for of in rows]


@pytest.mark.parametrize(
    ("categories", "sources"),
    [(None, ["hdf5"]), ([3] * 8 + [1], ["3", "1"]), (np.array([b"a"] * 9), ["a"])],
    ids=["none", "numbers", "bytes"],
)
def test_other_kinds_of_categories(tmp_path, categories, sources):
    convert(write(tmp_path / "x.h5", categories=categories), tmp_path / "set", **OPTIONS)
    assert fluxcore.data.open(tmp_path / "set").sources == sources


def link_out(path):
    write(path.with_name("other.h5"))
    with h5py.File(path, "w") as file:
        file["token_chunks"] = h5py.ExternalLink("other.h5", "token_chunks")
        file["doc_idx_for_chunk"] = DOCUMENTS


def store_outside(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("token_chunks", (9, 4), "i4", external=[("/etc/hostname", 0, 144)])
        file["doc_idx_for_chunk"] = DOCUMENTS


def group(path):
    with h5py.File(path, "w") as file:
        file.create_group("token_chunks")


MALFORMED = {
    "not hdf5": (lambda path: path.write_bytes(b"tokens" * 400), "no sound HDF5 file"),
    "empty file": (lambda path: path.write_bytes(b""), "no sound HDF5 file"),
    "no tokens": (lambda path: h5py.File(path, "w").close(), "`token_chunks` is missing"),
    "a link": (link_out, "`token_chunks` is missing, or is a link"),
    "storage outside": (store_outside, "must be a data set within the file"),
    "a group": (group, "must be a data set within the file"),
    "floats": (lambda path: write(path, tokens=TOKENS / 2), "must be integers"),
    "one dimension": (lambda path: write(path, tokens=TOKENS.ravel()), "must be integers"),
    "too few documents": (lambda path: write(path, documents=[1, 2]), "must be 9 integers"),
    "too few categories": (lambda path: write(path, categories=["a"]), "must be 9 names"),
    "negative": (lambda path: write(path, tokens=TOKENS - 1), "not within the vocabulary of 50"),
    "beyond": (lambda path: write(path, tokens=TOKENS + 20), "not within the vocabulary of 50"),
}


@pytest.mark.parametrize("make", MALFORMED)
def test_malformed_files_are_refused_by_name(tmp_path, make):
    write_it, text = MALFORMED[make]
    path = tmp_path / "x.h5"
    write_it(path)
    with pytest.raises(MalformedInputError) as error:
        convert(path, tmp_path / "set", **OPTIONS)
    assert str(path) in str(error.value)
    assert text in str(error.value)
    assert error.value.path == path
    assert not (tmp_path / "set" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda file: file.attrs.modify("fluxcore", "{}"), "is not what an export writes"),
        (lambda file: file.__delitem__("next_token_for_chunk"), "`next_token_for_chunk` is missing"),
        (lambda file: file.__delitem__("columns"), "`columns/0` is missing"),
        (lambda file: file["category_for_chunk"].__setitem__(3, "new"), "'new'"),
        (lambda file: file["valid_len_for_chunk"].__setitem__(3, 7), "`valid_len`"),
        (lambda file: file["columns/1"].__setitem__(3, -1e9), "must descend"),
    ],
    ids=["facts", "place", "columns", "category", "length", "order"],
)
def test_an_export_that_was_changed_is_refused(full, tmp_path, change, text):
    export(full, tmp_path / "out", format="hdf5")
    with h5py.File(tmp_path / "out" / "chunks.h5", "r+") as file:
        change(file)
    with pytest.raises(MalformedInputError) as error:
        convert(tmp_path / "out", tmp_path / "set", format="hdf5")
    assert "chunks.h5" in str(error.value)
    assert text in str(error.value)
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_a_flipped_bit_is_noticed(full, tmp_path):
    export(full, tmp_path / "out", format="hdf5")
    path = tmp_path / "out" / "chunks.h5"
    data = bytearray(path.read_bytes())
    row = full[7].astype(np.int32).tobytes()
    assert data.count(row) == 1
    data[data.index(row) + 1] ^= 4
    path.write_bytes(data)
    with pytest.raises(MalformedInputError, match="no sound HDF5 file"):
        convert(tmp_path / "out", tmp_path / "set", format="hdf5")


def test_a_bad_chunk_is_not_exported(full, tmp_path):
    convert(write(tmp_path / "x.h5"), tmp_path / "set", **OPTIONS)
    shard = tmp_path / "set" / "shard-000000.fxs"
    data = bytearray(shard.read_bytes())
    data[4096 + 8 * 3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptShardError, match="chunk 3"):
        export(tmp_path / "set", tmp_path / "out", format="hdf5")
    assert not (tmp_path / "out").exists()


def test_the_command_line(full, tmp_path):
    assert "40 chunks" in succeeds("export", full.path, tmp_path / "out", "--format", "hdf5")
    assert ": 40 chunks" in succeeds("convert", tmp_path / "back", tmp_path / "out", "--format", "hdf5")
    same(full, fluxcore.data.open(tmp_path / "back"))
