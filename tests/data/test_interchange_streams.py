"""Token streams of nanoGPT, modded-nanogpt and llm.c, to data sets and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data_sets import write_data_set
from support.token_files import documents_of, targets_follow, write_modded, write_nanogpt

import fluxcore.data
from fluxcore.data import ShardWriter, convert, export
from fluxcore.data.interchange import blocks, pieces
from fluxcore.data.interchange.chunker import Chunker
from fluxcore.data.progress import Progress
from fluxcore.errors import MalformedInputError

END = 50256
OPTIONS = {"vocab_size": 50257, "chunk_tokens": 8}


def ids(count, seed=0):
    return np.random.default_rng(seed).integers(0, END, count).astype("<u2")


def test_a_file_without_boundary_is_one_document(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_TOKENS", 5)
    files = [write_nanogpt(tmp_path / f"{name}.bin", ids(count, count)) for name, count in (("b", 21), ("a", 16))]
    seen: list[Progress] = []
    report = convert(files, tmp_path / "set", format="nanogpt", progress=seen.append, **OPTIONS)
    ds = fluxcore.data.open(tmp_path / "set")
    assert documents_of(ds) == [ids(21, 21).tolist(), ids(16, 16).tolist()]
    assert targets_follow(ds)
    assert (report.documents, report.chunks, report.tokens) == (2, 5, 37)
    assert ds.column("valid_len").tolist() == [8, 8, 5, 8, 8]
    assert (ds.sources, ds.vocab_size, ds.token_dtype) == (["nanogpt"], 50257, np.uint16)
    assert (seen[-1].done, seen[-1].total) == (37, 37)
    assert len(seen) > 5
    ds.verify()


@pytest.mark.parametrize(("at", "lengths"), [("end", [3, 1, 9, 4]), ("start", [2, 1, 9, 5])])
def test_documents_go_on_over_files_until_their_boundary(tmp_path, monkeypatch, at, lengths):
    monkeypatch.setattr(blocks, "BLOCK_TOKENS", 4)
    stream = ids(17)
    stream[[2, 3, 12]] = END
    (tmp_path / "in").mkdir()
    for name, part in (("2.bin", stream[6:]), ("1.bin", stream[:6])):
        write_modded(tmp_path / "in" / name, part)
    options = {"boundary": END, "boundary_at": at}
    report = convert(tmp_path / "in", tmp_path / "set", format="modded-nanogpt", **OPTIONS, **options)
    documents = documents_of(fluxcore.data.open(tmp_path / "set"))
    assert [len(document) for document in documents] == lengths
    assert report.documents == 4
    assert [token for document in documents for token in document] == stream.tolist()


def test_a_stream_that_starts_with_its_boundary_has_no_empty_document(tmp_path):
    stream = np.array([END, 1, 2, END, 3])
    write_nanogpt(tmp_path / "x.bin", stream)
    report = convert(
        tmp_path / "x.bin", tmp_path / "set", format="nanogpt", boundary=END, boundary_at="start", **OPTIONS
    )
    assert report.documents == 2
    assert documents_of(fluxcore.data.open(tmp_path / "set")) == [[END, 1, 2], [END, 3]]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 13), min_size=1, max_size=12),
    st.lists(st.integers(1, 9), min_size=1),
    st.integers(1, 6),
    st.booleans(),
)
def test_chunks_do_not_depend_on_how_the_stream_was_cut_into_blocks(tmp_path_factory, lengths, cuts, size, late):
    """An end at the edge of two blocks is told by the first, or by the second where it is `late`."""
    folder = tmp_path_factory.mktemp("chunker")
    stream = np.arange(sum(lengths)) + 1
    ends = np.cumsum(lengths)
    with ShardWriter(folder / "set", chunk_tokens=size, vocab_size=1000, sources=["s"]) as writer:
        chunker = Chunker(writer, chunk_tokens=size, dtype="uint16")
        start = 0
        for cut in [*cuts, len(stream)]:
            stop = min(start + cut, len(stream))
            own = ends[(ends >= start) & (ends < stop)] if late else ends[(ends > start) & (ends <= stop)]
            chunker.add(stream[start:stop], own - start, "s")
            start = stop
        chunker.finish("s")
    ds = fluxcore.data.open(folder / "set")
    assert documents_of(ds) == [part.tolist() for part in np.split(stream, ends[:-1])]
    assert targets_follow(ds)
    assert len(ds) == sum(-(-length // size) for length in lengths)


def test_a_long_stream_is_several_documents_and_loses_no_target(tmp_path):
    with ShardWriter(tmp_path / "set", chunk_tokens=4, vocab_size=1000, sources=["s"]) as writer:
        chunker = Chunker(writer, chunk_tokens=4, dtype="uint16", document_tokens=10)
        for start in range(0, 50, 5):
            chunker.add(np.arange(start, start + 5), np.empty(0, np.int64), "s")
        chunker.finish("s")
    ds = fluxcore.data.open(tmp_path / "set")
    assert ds.column("doc_offset").max() < 15
    assert len(set(ds.column("doc_id"))) == 5
    assert ds.column("next_token").tolist() == [*range(4, 50, 4), 0xFFFFFFFF]


def test_files_of_llm_c_for_llama_3_have_wide_ids(tmp_path):
    tokens = np.array([1, 128_000, 7] * 9)
    write_modded(tmp_path / "x.bin", tokens, magic=20240801, version=7, dtype="<u4")
    convert(tmp_path / "x.bin", tmp_path / "set", format="modded-nanogpt", vocab_size=128_256, chunk_tokens=8)
    ds = fluxcore.data.open(tmp_path / "set")
    assert ds.token_dtype == np.uint32
    export(ds, tmp_path / "out", format="modded-nanogpt")
    assert (tmp_path / "out" / "tokens_000000.bin").read_bytes() == (tmp_path / "x.bin").read_bytes()


@pytest.mark.parametrize("file_tokens", [10, 37, 1000])
def test_the_round_trip_of_files_is_exact(tmp_path, file_tokens):
    for number, part in enumerate(np.split(ids(37), range(file_tokens, 37, file_tokens))):
        write_modded(tmp_path / f"tokens_{number:06d}.bin", part)
    convert(tmp_path, tmp_path / "set", format="modded-nanogpt", boundary=END, **OPTIONS)
    export(tmp_path / "set", tmp_path / "out", format="modded-nanogpt", file_tokens=file_tokens)
    names = sorted(path.name for path in tmp_path.glob("*.bin"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()


def interrupt(at):
    """A progress callback that ends the work as Ctrl-C does, once `at` is done."""

    def callback(progress):
        if progress.done >= at:
            raise KeyboardInterrupt

    return callback


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".fluxcore.lock"}


@pytest.mark.parametrize("boundary", [None, END])
def test_an_import_that_was_cut_off_goes_on_from_its_full_shards(tmp_path, monkeypatch, boundary):
    monkeypatch.setattr(blocks, "BLOCK_TOKENS", 700)
    path = write_nanogpt(tmp_path / "x.bin", ids(5000))
    options = {"format": "nanogpt", "boundary": boundary, "shard_bytes": 60_000, **OPTIONS}
    convert(path, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        convert(path, tmp_path / "set", progress=interrupt(4000), **options)
    kept = {path: path.stat().st_ino for path in (tmp_path / "set").glob("*.fxs")}
    assert kept
    report = convert(path, tmp_path / "set", **options)
    assert report.tokens == 5000
    assert {path: path.stat().st_ino for path in kept} == kept
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    fluxcore.data.open(tmp_path / "set").verify()


def test_an_import_of_files_that_were_changed_meanwhile_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_TOKENS", 700)
    options = {"format": "nanogpt", "shard_bytes": 60_000, **OPTIONS}
    path = write_nanogpt(tmp_path / "x.bin", ids(5000))
    with pytest.raises(KeyboardInterrupt):
        convert(path, tmp_path / "set", progress=interrupt(4000), **options)
    write_nanogpt(path, ids(5000, 9))
    convert(path, tmp_path / "set", **options)
    assert np.concatenate(documents_of(fluxcore.data.open(tmp_path / "set"))).tolist() == ids(5000, 9).tolist()


@pytest.mark.parametrize("file_tokens", [7, 100, 160, 161])
def test_an_export_that_was_cut_off_goes_on_from_its_full_files(tmp_path, monkeypatch, file_tokens):
    monkeypatch.setattr(pieces, "BLOCK_TOKENS", 16 * 3)
    ds = write_data_set(tmp_path / "set")
    options = {"format": "modded-nanogpt", "file_tokens": file_tokens}
    export(ds, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        export(ds, tmp_path / "out", progress=interrupt(30), **options)
    assert not (tmp_path / "out").exists()
    headed = [path for path in (tmp_path / ".out.tmp").glob("*.bin") if any(path.read_bytes()[:4])]
    full = {path.name: path.stat().st_mtime_ns for path in headed}
    assert len(full) > 1
    seen: list[Progress] = []
    export(ds, tmp_path / "out", progress=seen.append, **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in full} == full
    assert seen[0].done > 20
    assert not (tmp_path / ".out.tmp").exists()


def test_an_export_of_something_else_does_not_go_on_from_it(tmp_path):
    ds = write_data_set(tmp_path / "set")
    with pytest.raises(KeyboardInterrupt):
        export(ds, tmp_path / "out", format="modded-nanogpt", file_tokens=50, progress=interrupt(1))
    other = write_data_set(tmp_path / "other", 20)
    export(other, tmp_path / "out", format="modded-nanogpt", file_tokens=50)
    export(other, tmp_path / "expected", format="modded-nanogpt", file_tokens=50)
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_the_round_trip_of_a_data_set_keeps_every_token_in_order(tmp_path):
    ds = write_data_set(tmp_path / "set")
    seen: list[Progress] = []
    report = export(ds, tmp_path / "out", format="modded-nanogpt", progress=seen.append)
    kept = [ds[i][: ds.column("valid_len")[i]] for i in range(len(ds))]
    assert report.tokens == sum(map(len, kept))
    assert (seen[-1].done, seen[-1].total) == (50, 50)
    convert(tmp_path / "out", tmp_path / "back", format="modded-nanogpt", vocab_size=ds.vocab_size, chunk_tokens=16)
    assert documents_of(fluxcore.data.open(tmp_path / "back")) == [np.concatenate(kept).tolist()]


def test_sources_are_named_by_the_caller(tmp_path):
    web, code = (write_nanogpt(tmp_path / f"{n}.bin", ids(20, n)) for n in (1, 2))
    convert({"web": web, "code": [code, web]}, tmp_path / "set", format="nanogpt", **OPTIONS)
    ds = fluxcore.data.open(tmp_path / "set")
    assert ds.sources == ["web", "code"]
    assert ds.column("source").tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]


MALFORMED = {
    "odd size": ("nanogpt", bytes(7), "must hold uint16 tokens, it has 7 bytes"),
    "empty": ("nanogpt", b"", "must hold uint16 tokens, it has 0 bytes"),
    "header": ("nanogpt", np.array([20240520, 1, *[0] * 254], "<i4").tobytes(), 'Use format="modded-nanogpt"'),
    "beyond the vocabulary": ("nanogpt", np.array([1, 2, 60000], "<u2").tobytes(), "token 2 is 60000, not within"),
    "no header": ("modded-nanogpt", bytes(1000), "must begin with 1024 bytes of header, it has 1000"),
    "magic": ("modded-nanogpt", bytes(1030), 'it begins with 0\n\nA file without a header is of format="nanogpt"'),
    "version": ("modded-nanogpt", np.array([20240520, 2] + [0] * 254, "<i4").tobytes(), "of version 1, it is of 2"),
    "size": ("modded-nanogpt", np.array([20240520, 1, 3] + [0] * 254, "<i4").tobytes(), r"1024 \+ 2 x 3 bytes"),
    "negative": ("modded-nanogpt", np.array([20240520, 1, -1] + [0] * 254, "<i4").tobytes(), "2 x -1 bytes"),
}


@pytest.mark.parametrize(("kind", "content", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_files_are_named_and_leave_nothing(tmp_path, kind, content, message):
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    with pytest.raises(MalformedInputError, match=message) as error:
        convert(path, tmp_path / "set", format=kind, **OPTIONS)
    assert error.value.path == path
    assert not (tmp_path / "set" / "manifest.json").exists()


BAD_ARGUMENTS = {
    "format": ({"format": "nanoGPT"}, "`format` must be one of nanogpt, modded-nanogpt, megatron, hdf5, datasets"),
    "vocabulary": ({"vocab_size": None}, "`vocab_size` must be given: files of nanogpt do not tell"),
    "boundary": ({"boundary": 50257}, "`boundary` must be a token of the vocabulary of 50257, got 50257"),
    "boundary at": ({"boundary_at": "middle"}, "`boundary_at` must be start or end, got 'middle'"),
    "token type": ({"token_dtype": "uint32"}, "`token_dtype` must be left out: files of nanogpt leave no choice"),
    "documents": ({"format": "megatron", "boundary": 0}, "`boundary` must be left out: files of megatron list"),
    "type": ({"dtype": "uint8"}, "`vocab_size`"),
}


@pytest.mark.parametrize(("options", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_refused(tmp_path, options, message):
    path = write_nanogpt(tmp_path / "x.bin", ids(20))
    with pytest.raises(ValueError, match=message):
        convert(path, tmp_path / "set", **{"format": "nanogpt", **OPTIONS, **options})


def test_inputs_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.bin"):
        convert(tmp_path / "x.bin", tmp_path / "set", format="nanogpt", **OPTIONS)
    with pytest.raises(MalformedInputError, match=r"must hold files \*\.bin, it has none"):
        convert(tmp_path, tmp_path / "set", format="nanogpt", **OPTIONS)
    with pytest.raises(ValueError, match="`inputs` must name a file or a folder for each source, got none"):
        convert([], tmp_path / "set", format="nanogpt", **OPTIONS)
    with pytest.raises(MalformedInputError, match="must be a regular file"):
        convert("/dev/null", tmp_path / "set", format="nanogpt", **OPTIONS)
    write_modded(tmp_path / "x.bin", [])
    with pytest.raises(ValueError, match="`inputs` must hold tokens, got none in"):
        convert(tmp_path / "x.bin", tmp_path / "set", format="modded-nanogpt", **OPTIONS)


def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_TOKENS", 8)
    path = write_nanogpt(tmp_path / "x.bin", ids(64))
    with pytest.raises(MalformedInputError, match="was cut short while it was read"):
        convert(path, tmp_path / "set", format="nanogpt", progress=lambda _: path.write_bytes(bytes(20)), **OPTIONS)
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_export_writes_all_or_nothing(tmp_path):
    ds = write_data_set(tmp_path / "set")
    with pytest.raises(ValueError, match="`format` must be one of modded-nanogpt, hdf5, datasets, got 'nanogpt'"):
        export(ds, tmp_path / "out", format="nanogpt")
    with pytest.raises(ValueError, match=r"`file_tokens` must be within \[1, 2147483647\], got 0"):
        export(ds, tmp_path / "out", format="modded-nanogpt", file_tokens=0)
    with pytest.raises(FileExistsError):
        export(ds, tmp_path / "set", format="modded-nanogpt")
    with pytest.raises(ZeroDivisionError):
        export(ds, tmp_path / "out", format="modded-nanogpt", progress=lambda _: 1 / 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
