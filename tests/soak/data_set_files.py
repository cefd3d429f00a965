"""Files of a data set, changed as a disk would, or as somebody would who makes all checksums fit."""

import copy
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

import fluxcore.data
from fluxcore import _core
from fluxcore.errors import CorruptShardError
from soak.mutation import mutate
from soak.target import FoundError, Target

CHUNKS, T, PAGE, FOOTER = 40, 16, 4096, 64


def write_set(folder: Path) -> None:
    """Two shards with a score, a mask, and a sidecar each."""
    rng = np.random.default_rng(0)
    with fluxcore.data.ShardWriter(
        folder, chunk_tokens=T, vocab_size=1000, sources=["a", "b"], score_columns=["s"], token_mask=True,
        shard_bytes=12 * PAGE + 300 + 25 * (T * 2 + 44), sorted_by=("s", False),
    ) as writer:  # fmt: skip
        lengths = rng.integers(1, T + 1, CHUNKS)
        writer.append_batch(
            rng.integers(0, 1000, (CHUNKS, T)), sources=np.arange(CHUNKS) % 2, doc_ids=np.arange(CHUNKS),
            doc_offsets=np.zeros(CHUNKS, int), valid_lens=lengths, scores={"s": np.sort(rng.random(CHUNKS))},
            mask=rng.integers(0, 2, (CHUNKS, T)).astype(bool),
        )  # fmt: skip
    fluxcore.data.open(folder).add_columns({"t": rng.random(CHUNKS), "u": np.arange(CHUNKS, dtype=np.uint16)})


def read_everything(folder: Path) -> dict[str, bytes]:
    """All that a data set holds, through every way of reading it."""
    ds = fluxcore.data.open(folder)
    found = {name: ds.column(name).tobytes() for name in ds.columns}
    tokens, targets = ds.gather(np.arange(len(ds)))
    found |= {"tokens": tokens.tobytes(), "targets": b"" if targets is None else targets.tobytes()}
    masks = [ds.token_mask(i) for i in range(len(ds))]
    found["masks"] = b"".join(b"" if mask is None else mask.tobytes() for mask in masks)
    if len(ds) >= 8:  # a manifest without shards is that of an empty set
        loader = fluxcore.data.Loader(ds, fluxcore.data.Order.shuffled(), global_batch_size=8, out="int64")
        found["loaded"] = b"".join(batch.tokens.numpy().tobytes() for batch in loader)
    ds.verify()
    return found


class _Files(Target):
    def prepare(self, folder: Path) -> None:
        """The set, and what it holds."""
        self._folder = folder / "set"
        write_set(self._folder)
        self._sound = {p.name: p.read_bytes() for p in self._folder.iterdir() if p.suffix in (".fxs", ".fxc", ".json")}
        self._held = read_everything(self._folder)

    def _names(self, *suffixes: str) -> list[str]:
        return sorted(name for name in self._sound if Path(name).suffix in suffixes)

    def _read_with(self, changed: dict[str, bytes]) -> dict[str, bytes] | None:
        """What is read when these files are as given; None if it is refused."""
        for name, data in changed.items():
            (self._folder / name).write_bytes(data)
        try:
            return read_everything(self._folder)
        except (CorruptShardError, OSError):
            return None
        except ValueError as error:
            if not any(part in str(error) for part in ("Upgrade fluxcore", "newer", "version", "does not know")):
                raise
            return None
        finally:
            for name in changed:
                (self._folder / name).write_bytes(self._sound[name])


class Damaged(_Files):
    """Any byte of any file: it is noticed, or nothing of what is read has changed."""

    name = "damaged files"

    def attempt(self, rng: np.random.Generator) -> str:
        """One file is changed."""
        name = str(rng.choice(self._names(".fxs", ".fxc", ".json")))
        data = mutate(rng, self._sound[name])
        held = self._read_with({name: data})
        if held is None:
            return "refused"
        if held != self._held:
            raise FoundError(f"`{name}` was changed and read as something else")
        return "the same" if data == self._sound[name] else "without effect"


class Forged(_Files):
    """Superblocks, sections and names by somebody who makes all checksums fit: refused or read, and nothing worse."""

    name = "forged shards"

    def attempt(self, rng: np.random.Generator) -> str:
        """One shard or sidecar is forged, and the manifest to fit."""
        name = str(rng.choice(self._names(".fxs", ".fxc")))
        sound = self._sound[name]
        count = struct.unpack_from("<H", sound, 14)[0]
        if rng.random() < 0.6:
            high = int(rng.choice([116, 512 + 24 * count, 512 + 24 * count]))
            data = bytearray(mutate(rng, sound, low=8, high=high))
        else:
            data = bytearray(mutate(rng, sound, low=PAGE, high=len(sound) - FOOTER))
            reseal_sections(data)
        root = reseal(data)
        manifest = forge_manifest(self._sound["manifest.json"], lambda doc: _relist(doc, name, root))
        held = self._read_with({name: bytes(data), "manifest.json": manifest})
        return "refused" if held is None else "read"


class ForgedManifest(_Files):
    """Manifests of any contents with a CRC that fits."""

    name = "forged manifests"

    def attempt(self, rng: np.random.Generator) -> str:
        """One to three values are replaced."""

        def change(document: dict[str, Any]) -> None:
            for _ in range(int(rng.integers(1, 4))):
                change_value(rng, document)

        held = self._read_with({"manifest.json": forge_manifest(self._sound["manifest.json"], change)})
        return "refused" if held is None else "read"


STRANGE = (
    *(None, True, False, 0, 1, -1, 2, 7, 1 << 31, 1 << 40, 1 << 62, 1 << 63, 1 << 70, -(1 << 63)),
    *(0.0, 1.5, -0.0, 1e308, 5e-324),
    *("", "s", "t", "a", "float32", "uint64", "..", "../x", "/etc/passwd", "shard-000001.fxs", "manifest.json", "\x00"),
    *("a" * 129, "é" * 64, "0" * 32, [], {}, [0], [[]], {"": None}, ["s"], {"column": "t", "descending": True}),
)  # fmt: skip


def change_value(rng: np.random.Generator, document: Any) -> None:
    """Replace, take away, double or exchange one value somewhere in a document."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
        for key, value in items:
            places.append((node, key))
            if isinstance(value, dict | list):
                walk(value)

    walk(document)
    if not places:
        return
    node, key = places[int(rng.integers(len(places)))]
    other, other_key = places[int(rng.integers(len(places)))]
    kind = rng.choice(["strange", "strange", "number", "delete", "other", "double"])
    if kind == "number" and type(node[key]) is int:
        node[key] += int(rng.choice([-1, 1, 1 << 32]))
    elif kind == "delete":
        del node[key]
    elif kind == "other":
        node[key] = json.loads(json.dumps(other[other_key]))  # a copy, so that no value holds itself
    elif kind == "double" and isinstance(node, list):
        node.append(json.loads(json.dumps(node[key])))
    else:
        node[key] = copy.deepcopy(STRANGE[int(rng.integers(len(STRANGE)))])  # or a later change would be in all of them


def forge_manifest(data: bytes, change: Any) -> bytes:
    """Change the JSON, and make its CRC fit."""
    document = json.loads(data.partition(b"\n")[0])
    change(document)
    line = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    return line + b"\ncrc32c:%08x\n" % _core.crc32c(line)


def _relist(document: dict[str, Any], name: str, root: str) -> None:
    for shard in document["shards"]:
        for entry in (shard, *shard["sidecars"]):
            if entry["name"] == name:
                entry["root"] = root


def reseal_sections(data: bytearray) -> None:
    """Make the CRC of each section fit, but for one of tokens and masks, whose chunks keep theirs."""
    for place in range(512, 512 + 24 * struct.unpack_from("<H", data, 14)[0], 24):
        kind, offset, length = data[place], *struct.unpack_from("<QQ", data, place + 8)
        if kind not in (2, 5):
            struct.pack_into("<I", data, place + 4, _core.crc32c(bytes(data[offset : offset + length])))


def reseal(data: bytearray) -> str:
    """Make the CRC of the superblock and of the footer and the root hash fit; returns that one."""
    struct.pack_into("<I", data, PAGE - 4, _core.crc32c(bytes(data[: PAGE - 4])))
    crcs = b""
    for place in range(512, 512 + 24 * min(struct.unpack_from("<H", data, 14)[0], 128), 24):
        if data[place] == 3:
            offset, length = struct.unpack_from("<QQ", data, place + 8)
            crcs = bytes(data[offset : offset + length])
    root = xxhash.xxh3_128_digest(bytes(data[:PAGE]) + crcs)
    data[-FOOTER + 16 : -FOOTER + 32] = root
    struct.pack_into("<I", data, len(data) - 4, _core.crc32c(bytes(data[-FOOTER:-4])))
    return root.hex()


def clear(folder: Path) -> None:
    """Take away a folder that may be there."""
    shutil.rmtree(folder, ignore_errors=True)
