"""`convert` and `export`."""

import numpy as np
from support.command_line import fails, succeeds
from support.data_sets import write_data_set
from support.token_files import write_megatron, write_modded

import fluxcore.data


def test_files_of_several_sources_to_a_data_set_and_back(tmp_path):
    tokens = np.arange(100) % 50
    for name in ("a", "b=c"):
        write_modded(tmp_path / f"{name}.bin", tokens)
    printed = succeeds(
        "convert",
        tmp_path / "set",
        f"web={tmp_path / 'a.bin'}",
        tmp_path / "b=c.bin",
        *("--format", "modded-nanogpt", "--vocab-size", 50, "--chunk-tokens", 8, "--boundary", 49),
    )
    assert "4 documents, 28 chunks, 200 tokens" in printed
    assert fluxcore.data.open(tmp_path / "set").sources == ["web", "modded-nanogpt"]
    printed = succeeds("export", tmp_path / "set", tmp_path / "out", "--format", "modded-nanogpt", "--file-tokens", 100)
    assert "28 chunks, 200 tokens, for modded-nanogpt" in printed
    for number in range(2):
        assert (tmp_path / "out" / f"tokens_00000{number}.bin").read_bytes() == (tmp_path / "a.bin").read_bytes()


def test_datasets_there_and_back(tmp_path):
    ds = write_data_set(tmp_path / "set")
    assert "50 chunks" in succeeds("export", tmp_path / "set", tmp_path / "out", "--format", "datasets")
    assert ": 50 chunks" in succeeds("convert", tmp_path / "back", tmp_path / "out", "--format", "datasets")
    back = fluxcore.data.open(tmp_path / "back")
    assert np.array_equal(back.column("score"), ds.column("score"))


def test_what_cannot_be_converted_is_said_in_one_line(tmp_path):
    (tmp_path / "x.bin").write_bytes(bytes(3))
    options = ("--vocab-size", 50257)
    message = fails("convert", tmp_path / "set", tmp_path / "x.bin", "--format", "nanogpt", *options)
    assert "must hold uint16 tokens, it has 3 bytes" in message
    write_megatron(tmp_path / "y", [[[1, 2]]], code=7, dtype="<u4")
    message = fails("convert", tmp_path / "set", tmp_path / "y.idx", "--format", "megatron", *options)
    assert 'token_dtype="uint32"' in message
    assert "2 tokens" in succeeds(
        "convert", tmp_path / "set", tmp_path / "y", "--format", "megatron", "--token-dtype", "uint32", *options
    )
    assert "`format` must be one of" in fails("export", tmp_path / "set", tmp_path / "out", "--format", "h5")
