"""Indexed token files of Megatron-LM and DeepSpeed."""

import struct

import numpy as np
import pytest
from support.token_files import documents_of, targets_follow, write_megatron

import fluxcore.data
from fluxcore.data import convert
from fluxcore.data.interchange import megatron
from fluxcore.errors import MalformedInputError

OPTIONS = {"vocab_size": 1000, "chunk_tokens": 4, "format": "megatron"}
DOCUMENTS = [[[1, 2, 3], [4, 5, 6, 7]], [], [[8]], [[9, 10, 11, 12, 13, 14, 15, 16, 17]], [[], [18, 19]]]
FLAT = [[token for sequence in document for token in sequence] for document in DOCUMENTS]
FULL = [document for document in FLAT if document]


@pytest.mark.parametrize("block", [1, 3, 7, 1000])
@pytest.mark.parametrize("reverse", [False, True])
def test_documents_are_those_of_the_index(tmp_path, monkeypatch, block, reverse):
    monkeypatch.setattr(megatron, "BLOCK_TOKENS", block)
    stem = write_megatron(tmp_path / "x", DOCUMENTS, reverse=reverse)
    report = convert(stem, tmp_path / "set", **OPTIONS)
    ds = fluxcore.data.open(tmp_path / "set")
    assert documents_of(ds) == FULL
    assert targets_follow(ds)
    assert report.documents == len(DOCUMENTS)
    assert sorted(set(ds.column("doc_id").tolist())) == [0, 2, 3, 4]
    assert ds.token_dtype == np.uint16


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(1, "u1"), (2, "i1"), (3, "<i2"), (4, "<i4"), (5, "<i8"), (6, "<u2"), (8, "<u2"), (8, "<u8")],
)
def test_the_type_is_the_one_that_fills_the_file(tmp_path, code, dtype):
    write_megatron(tmp_path / "x", DOCUMENTS, code=code, dtype=dtype)
    convert(tmp_path / "x.bin", tmp_path / "set", **OPTIONS)
    assert documents_of(fluxcore.data.open(tmp_path / "set")) == FULL


def test_two_readings_are_refused_unless_one_is_chosen(tmp_path):
    write_megatron(tmp_path / "x", DOCUMENTS, code=7, dtype="<u4")
    with pytest.raises(MalformedInputError, match=r"code 7 is float32 to Megatron-LM and uint32 to DeepSpeed") as error:
        convert(tmp_path / "x.idx", tmp_path / "set", **OPTIONS)
    assert 'token_dtype="uint32"' in str(error.value)
    convert(tmp_path / "x.idx", tmp_path / "set", token_dtype="uint32", **OPTIONS)
    assert documents_of(fluxcore.data.open(tmp_path / "set")) == FULL
    with pytest.raises(MalformedInputError, match=r"its tokens are float32 or uint32, not uint16 \(`token_dtype`\)"):
        convert(tmp_path / "x.idx", tmp_path / "other", token_dtype="uint16", **OPTIONS)
    with pytest.raises(MalformedInputError, match="its tokens are float32; ids are integers"):
        convert(tmp_path / "x.idx", tmp_path / "other", token_dtype="float32", **OPTIONS)


def test_all_pairs_of_a_folder_in_the_order_of_their_names(tmp_path):
    (tmp_path / "in").mkdir()
    write_megatron(tmp_path / "in" / "b", [[[5, 6]]])
    write_megatron(tmp_path / "in" / "a", [[[1, 2]], [[3]]])
    convert(tmp_path / "in", tmp_path / "set", **OPTIONS)
    assert documents_of(fluxcore.data.open(tmp_path / "set")) == [[1, 2], [3], [5, 6]]


def patched(offset, kind, value):
    def change(data):
        struct.pack_into(kind, data, offset, value)

    return change


def cut(data):
    del data[-1]


# 6 sequences: lengths from byte 34 on, pointers from 58 on, bounds of documents from 106 on.
BROKEN = {
    "magic": (patched(0, "<B", 0), "must begin with b'MMIDIDX"),
    "version": (patched(9, "<Q", 2), "must be of version 1, it is of 2"),
    "code": (patched(17, "<B", 9), "its dtype code must be one of 1, 2, 3, 4, 5, 6, 7, 8, it is 9"),
    "narrower": (patched(17, "<B", 1), "its 19 tokens, as uint8, do not fill the 38 bytes"),
    "no integers": (patched(17, "<B", 7), "as float32 or uint32, do not fill"),
    "cut": (cut, "it was cut short"),
    "sequences": (patched(18, "<Q", 1 << 62), "sequences and 6 bounds of documents take"),
    "bounds": (patched(26, "<Q", 7), "take"),
    "length": (patched(34, "<i", 4), "its 20 tokens, as uint16 or uint64, do not fill"),
    "negative length": (patched(34, "<i", -1), "sequence 0 has -1 tokens"),
    "pointer": (patched(58, "<q", 34), "sequence 0, 3 tokens from byte 34 on, is not within the .bin"),
    "negative pointer": (patched(66, "<q", -2), "sequence 1, 4 tokens from byte -2 on"),
    "pointer far away": (patched(66, "<q", (1 << 63) - 1), "sequence 1, 4 tokens from byte"),
    "first document": (patched(106, "<q", 1), "its documents must begin with sequence 0"),
    "last document": (patched(146, "<q", 5), "rise, and end with sequence 6"),
    "falling documents": (patched(114, "<q", 5), "its documents must begin"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_index_is_named(tmp_path, change, message):
    stem = write_megatron(tmp_path / "x", DOCUMENTS)
    data = bytearray(stem.with_suffix(".idx").read_bytes())
    change(data)
    stem.with_suffix(".idx").write_bytes(data)
    with pytest.raises(MalformedInputError, match=message):
        convert(stem, tmp_path / "set", **OPTIONS)
    assert not (tmp_path / "set").exists()


def test_foreign_ids_are_named_with_their_place_in_the_bin(tmp_path):
    write_megatron(tmp_path / "x", [[[1, 2]], [[3, -4]]], code=4, dtype="<i4", reverse=True)
    with pytest.raises(MalformedInputError, match=r"x\.bin`: token 1 is -4, not within the vocabulary of 1000"):
        convert(tmp_path / "x", tmp_path / "set", **OPTIONS)
    (tmp_path / "x.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"x\.bin"):
        convert(tmp_path / "x", tmp_path / "set", **OPTIONS)
