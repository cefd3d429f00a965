"""Whatever happens to a foreign file, it is refused by name or becomes a sound data set."""

import shutil
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data_sets import write_data_set
from support.token_files import write_arrow, write_megatron, write_modded, write_nanogpt

import fluxcore.data
from fluxcore.data import convert, export
from fluxcore.errors import MalformedInputError

TOKENS = np.arange(60) % 40


def make_nanogpt(folder):
    folder.mkdir()
    write_nanogpt(folder / "x.bin", TOKENS)


def make_modded(folder):
    folder.mkdir()
    write_modded(folder / "x.bin", TOKENS)


def make_megatron(folder):
    folder.mkdir()
    write_megatron(folder / "x", [[part.tolist()] for part in np.split(TOKENS, [7, 30])])


def make_arrow(folder):
    write_arrow(folder, [part.tolist() for part in np.split(TOKENS, [7, 30, 31])], kind=pa.list_(pa.int16()))


def make_export(folder):
    ds = write_data_set(folder.parent / "small", chunks=12, chunk_tokens=4)
    export(ds, folder, format="datasets")


MAKERS = {
    "nanogpt": make_nanogpt,
    "modded-nanogpt": make_modded,
    "megatron": make_megatron,
    "datasets": make_arrow,
    "export": make_export,
}
NUMBERS = (0, 1, 2, 4, 8, -1, 127, 255, 1 << 15, 1 << 31, (1 << 31) - 1, 1 << 62, (1 << 63) - 1, -(1 << 63))


@st.composite
def mutations(draw):
    """A function that changes some bytes: anywhere, but mostly where headers are."""
    kind = draw(st.sampled_from(["flip", "number", "cut", "insert", "swap"]))
    at = draw(st.one_of(st.floats(0, 1), st.integers(0, 170)))
    number, width = draw(st.sampled_from(NUMBERS)), draw(st.sampled_from([1, 4, 8]))
    bit, count = draw(st.integers(0, 7)), draw(st.integers(1, 40))

    def apply(data):
        place = min(at if isinstance(at, int) else int(at * len(data)), max(len(data) - 1, 0))
        if kind == "flip" and data:
            data[place] ^= 1 << bit
        elif kind == "number":
            data[place : place + width] = struct.pack("<Q", number % (1 << 64))[:width]
        elif kind == "cut":
            del data[place : place + count]
        elif kind == "insert":
            data[place:place] = bytes(count)
        elif kind == "swap":
            data[place : place + count] = data[place : place + count][::-1]

    return apply


@pytest.mark.parametrize("name", MAKERS)
def test_mutated_inputs_are_refused_by_name_or_sound(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("mutation")
    MAKERS[name](folder / "in")
    files = sorted(path for path in (folder / "in").iterdir() if path.name != "dataset_info.json")
    originals = {path: path.read_bytes() for path in files}
    kind = "datasets" if name == "export" else name
    outcomes = set()

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from(files), st.lists(mutations(), min_size=1, max_size=3))
    def check(path, changes):
        data = bytearray(originals[path])
        for change in changes:
            change(data)
        path.write_bytes(data)
        message = ""
        try:
            convert(folder / "in", folder / "set", format=kind, vocab_size=1000, chunk_tokens=4)
            assert fluxcore.data.open(folder / "set").verify().tokens > 0
            outcomes.add("sound")
        except (MalformedInputError, ValueError) as error:
            message = str(error)
            outcomes.add("refused")
        finally:
            path.write_bytes(originals[path])
            shutil.rmtree(folder / "set", ignore_errors=True)
        # Without the file's name: no token is left, or an export now tells sizes other than those asked for.
        named = (str(folder / "in"), "`inputs` must hold tokens", "as the exported data set has it")
        assert not message or any(part in message for part in named)

    check()
    assert outcomes == {"sound", "refused"}
