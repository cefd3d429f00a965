"""Several data sets are sorted into one, as if they had been one before."""

from itertools import pairwise

import numpy as np
import pytest

import fluxcore.data
from fluxcore.data import ShardWriter, sort, sort_disk_bytes
from fluxcore.data.parts import Parts, open_parts

CUTS = (0, 20, 20, 35, 50)  # at documents, one part empty


def write_parts(ds, folder, **changed):
    """The chunks of `ds` in four data sets, each with documents and sources numbered in its own way."""
    paths = []
    for number, (start, stop) in enumerate(pairwise(CUTS)):
        sources = ds.sources[:: 1 if number % 2 == 0 else -1]
        own = slice(start, stop)
        paths.append(folder / f"part-{number}")
        options = {
            "chunk_tokens": 16, "vocab_size": ds.vocab_size, "sources": sources, "score_columns": {"score": "made up"}
        }  # fmt: skip
        with ShardWriter(paths[-1], **(options | changed if number == 3 else options)) as writer:
            names = np.array(ds.sources)[ds.column("source")[own]]
            following = ds.column("next_token")[own].astype(int)
            tokens = np.array([ds[chunk] for chunk in range(start, stop)], np.uint16).reshape(stop - start, 16)
            writer.append_batch(
                np.pad(tokens, ((0, 0), (0, writer._manifest.chunk_tokens - 16))),
                sources=np.array([sources.index(name) for name in names], np.uint16),
                doc_ids=ds.column("doc_id")[own] - np.uint64(start // 5),
                doc_offsets=ds.column("doc_offset")[own],
                next_tokens=np.where(following > ds.vocab_size, -1, following),
                valid_lens=ds.column("valid_len")[own],
                scores={name: ds.column("score")[own] for name in writer._manifest.columns},
            )
    return paths


def rows(ds):
    sources = [ds.sources[number] for number in ds.column("source")]
    columns = [ds.column(name).tolist() for name in ds.columns if name != "source"]
    return [ds[chunk].tolist() for chunk in range(len(ds))], sources, columns


@pytest.mark.parametrize("descending", [False, True])
def test_parts_sort_like_the_whole(ds, tmp_path, descending):
    parts = write_parts(ds, tmp_path)
    sort(ds, tmp_path / "whole", "score", descending)
    result = sort(parts, tmp_path / "memory", "score", descending)
    assert (result.chunks, result.already_sorted) == (50, False)
    united = fluxcore.data.open(tmp_path / "memory")
    united.verify()
    assert rows(united) == rows(fluxcore.data.open(tmp_path / "whole"))
    sort(parts, tmp_path / "limited", "score", descending, memory_bytes=40_000)
    for path in (tmp_path / "memory").glob("[!.]*"):
        assert (tmp_path / "limited" / path.name).read_bytes() == path.read_bytes()
    assert sort([fluxcore.data.open(path) for path in parts], tmp_path / "memory", "score", descending).already_sorted


def test_quantiles_within_one_part_stay_behind(ds, tmp_path):
    parts = write_parts(ds, tmp_path)
    fluxcore.data.open(parts[0]).add_source_quantiles("score")  # of one part or of all
    for descending in (False, True):
        sort(parts, tmp_path / f"sorted-{descending}", "score", descending)
        united = fluxcore.data.open(tmp_path / f"sorted-{descending}")
        assert "score" in united.columns
        assert "score.source_quantile" not in united.columns
        for path in parts[1:] if not descending else ():
            fluxcore.data.open(path).add_source_quantiles("score")
    sort(parts[0], tmp_path / "alone", "score")
    assert "score.source_quantile" in fluxcore.data.open(tmp_path / "alone").columns


def test_masks_come_along_from_every_part(tmp_path):
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (2, 9, 11)).astype(bool)
    for number in range(2):
        with ShardWriter(
            tmp_path / str(number), chunk_tokens=11, vocab_size=9, sources=["a"], score_columns=["s"], token_mask=True
        ) as writer:
            writer.append_batch(
                rng.integers(0, 9, (9, 11)), sources="a", doc_ids=np.arange(9), doc_offsets=np.zeros(9, int),
                mask=masks[number], scores={"s": np.arange(9)},
            )  # fmt: skip
    sort([tmp_path / "0", tmp_path / "1"], tmp_path / "sorted", "s")
    united = fluxcore.data.open(tmp_path / "sorted")
    found = [united.token_mask(place).tolist() for place in range(18)]
    assert found == [masks[place % 2][place // 2].tolist() for place in range(18)]


def test_the_order_of_the_parts_is_part_of_what_is_sorted(ds, tmp_path):
    parts = write_parts(ds, tmp_path)
    sort(parts, tmp_path / "sorted", "score")
    with pytest.raises(FileExistsError, match="holds a data set already"):
        sort(parts[::-1], tmp_path / "sorted", "score")


def test_chunks_are_read_in_any_order_and_columns_in_any_part(ds, tmp_path):
    parts = open_parts(write_parts(ds, tmp_path))
    ids = np.random.default_rng(1).permutation(50).astype(np.uint64)
    assert parts.payload(ids)["tokens"].tolist() == [ds[int(i)].tolist() for i in ids]
    for some in (np.sort(ids), np.array([3, 19, 20, 49], np.uint64), np.array([], np.uint64)):
        for name, values in parts.take(("doc_id", "original_index", "score"), some).items():
            assert values.tolist() == ds.column(name)[some.astype(int)].tolist()
            assert values.dtype == ds.column(name).dtype
    again = Parts(parts.data, parts.bases)
    assert again.column("doc_id").tolist() == ds.column("doc_id").tolist()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"chunk_tokens": 17}, r"`src` must be alike in `chunk_tokens`, got 16 in `.*part-0` and 17 in `.*part-3`"),
        ({"dtype": "uint32"}, r"`src` must be alike in `dtype`, got uint16"),
        ({"vocab_size": 2000}, r"`src` must be alike in `vocab_size`, got 1000"),
        ({"tokenizer": bytes(range(16))}, r"`src` must be alike in `tokenizer`, got None"),
        ({"score_columns": {"score": "otherwise"}}, r"`src` must have the same columns .* another `score`"),
        ({"score_columns": {"other": "made up"}}, r"`src` must have the same columns .* another `other`"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_parts_that_are_not_alike_are_refused(ds, tmp_path, changed, message):
    parts = write_parts(ds, tmp_path, **changed)
    with pytest.raises(ValueError, match=message):
        sort(parts, tmp_path / "sorted", "score")
    assert not (tmp_path / "sorted").exists()


def test_no_part_and_a_part_given_twice_are_refused(ds, tmp_path):
    with pytest.raises(ValueError, match="`src` must be a data set or a list of them, got an empty list"):
        sort([], tmp_path / "sorted", "score")
    with pytest.raises(ValueError, match="`src` must name each data set once"):
        sort([ds, ds.path], tmp_path / "sorted", "score")
    parts = write_parts(ds, tmp_path)
    with pytest.raises(ValueError, match="`dst` must be another folder than `src`"):
        sort(parts, parts[2], "score")


def test_document_ids_that_pass_64_bits_are_refused(tmp_path):
    for number in range(2):
        with ShardWriter(tmp_path / str(number), chunk_tokens=2, vocab_size=9, sources=["a"], score_columns=["s"]) as w:
            w.append([1, 2], source="a", doc_id=(1 << 63) + 5, scores={"s": 1.0})
    with pytest.raises(ValueError, match="`src` must have `doc_id` that fit into 64 bits"):
        sort([tmp_path / "0", tmp_path / "1"], tmp_path / "sorted", "s")


def test_the_room_for_all_parts_is_told(ds, tmp_path):
    parts = write_parts(ds, tmp_path)
    assert sort_disk_bytes(parts, "score") == sort_disk_bytes(ds, "score")
