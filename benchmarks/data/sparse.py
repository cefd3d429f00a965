"""A data set of zeros as large as wanted, which takes next to no room on the disk; by docs/shard_format.md."""

import struct
from functools import cache
from pathlib import Path

import numpy as np
import xxhash

from fluxcore.data.manifest import Manifest, ShardInfo, publish
from fluxcore.data.manifest_check import STANDARD_COLUMNS

_PAGE = 4096
_SHARD_CHUNKS = 250_000
_TYPES = {"uint8": 1, "uint16": 2, "uint32": 3, "uint64": 4}
_UUID = "00112233445566778899aabbccddeeff"


@cache
def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


@cache  # a section of zeros has the same one in each shard
def crc32c(data: bytes) -> int:
    """Slow, and enough for a few megabytes."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def write_sparse_set(folder: Path, chunks: int, chunk_tokens: int) -> None:
    """Write `chunks` chunks of zeros, uint16, with true checksums; columns are zeros too, `original_index` as well."""
    folder.mkdir(parents=True)
    shards, base = [], 0
    while base < chunks:
        count = min(_SHARD_CHUNKS, chunks - base)
        shards.append(_write_shard(folder, len(shards), count, chunk_tokens, base))
        base += count
    publish(
        folder,
        Manifest(
            generation=1, uuid=_UUID, chunk_tokens=chunk_tokens, dtype="uint16", vocab_size=1 << 16, tokenizer=None,
            token_mask=False, sources=("zeros",), columns={}, sorted_by=None, parent=None, shards=tuple(shards),
        ),
    )  # fmt: skip


def _write_shard(folder: Path, number: int, count: int, chunk_tokens: int, base: int) -> ShardInfo:
    columns = {name: dtype for name, dtype in STANDARD_COLUMNS.items() if name != "valid_len"}
    names = b"".join(bytes([len(name)]) + name.encode() for name in columns)
    chunk_crcs = np.full(count, crc32c(bytes(2 * chunk_tokens)), "<u4").tobytes()
    # kind, type, name, CRC, length, and the bytes where they are not zeros
    sections = [(2, _TYPES["uint16"], 0xFFFF, 0, 2 * chunk_tokens * count, b"")]
    sections.append((3, _TYPES["uint32"], 0xFFFF, crc32c(chunk_crcs), len(chunk_crcs), chunk_crcs))
    for index, dtype in enumerate(columns.values()):
        length = count * np.dtype(dtype).itemsize
        sections.append((4, _TYPES[dtype], index, crc32c(bytes(length)), length, b""))
    sections.append((1, _TYPES["uint8"], 0xFFFF, crc32c(names), len(names), names))
    name = f"shard-{number:06d}.fxs"
    block = bytearray(_PAGE)
    block[:64] = struct.pack(
        "<8sHHBBHQQQ16sII", b"\x89FXS\r\n\x1a\n", 1, 0, 1, 2, len(sections), 0, 0, 0, bytes.fromhex(_UUID), number,
        chunk_tokens,
    )  # fmt: skip
    block[64:80] = struct.pack("<QQ", 1 << 16, count)
    block[112:116] = struct.pack("<HBB", 0xFFFF, 0, 0)
    at = _PAGE
    with (folder / name).open("wb") as file:
        for place, (kind, dtype, index, crc, length, data) in enumerate(sections):
            block[512 + 24 * place : 536 + 24 * place] = struct.pack("<BBHIQQ", kind, dtype, index, crc, at, length)
            file.seek(at)
            file.write(data)
            at += -(-length // _PAGE) * _PAGE
        block[4092:] = struct.pack("<I", crc32c(bytes(block[:4092])))
        root = xxhash.xxh3_128_digest(bytes(block) + chunk_crcs)
        footer = struct.pack("<8sQ16s28s", b"\x89FXE\r\n\x1a\n", at + 64, root, bytes(28))
        file.seek(at)
        file.write(footer + struct.pack("<I", crc32c(footer)))
        file.seek(0)
        file.write(block)
    return ShardInfo(name=name, bytes=at + 64, chunks=count, base=base, root=root.hex())
