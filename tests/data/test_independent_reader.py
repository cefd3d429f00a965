"""A reader that knows nothing but docs/shard_format.md: it shares no code with the package."""

import json
import struct

import numpy as np
import pytest

import fluxcore.data as data

TYPES = {1: "<u1", 2: "<u2", 3: "<u4", 4: "<u8", 5: "<f4"}
SUPERBLOCK = struct.Struct("<8sHHBBHQQQ16sIIQQ16s16sHBB")
FIELDS = (
    *("magic", "major", "minor", "kind", "token_type", "sections", "compat", "ro_compat", "incompat", "uuid", "number"),
    *("chunk_tokens", "vocab_size", "chunks", "tokenizer", "parent", "sort_name", "descending", "nan_last"),
)
ENTRY = struct.Struct("<BBHIQQ")


def crc32c(message):
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    crc = 0xFFFFFFFF
    for byte in message:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def read_file(path):
    """The fields of the superblock, the sections by kind, the columns by name, and the root hash."""
    raw = path.read_bytes()
    fields = dict(zip(FIELDS, SUPERBLOCK.unpack_from(raw), strict=True))
    assert SUPERBLOCK.size == 116
    assert fields["magic"] == bytes.fromhex("89465853 0D0A1A0A")
    assert (fields["major"], fields["incompat"]) == (1, 0)
    assert struct.unpack_from("<I", raw, 4092)[0] == crc32c(raw[:4092])
    assert not any(raw[116:512])
    assert not any(raw[512 + 24 * fields["sections"] : 4092])
    sections, named, end = {}, {}, 4096
    for number in range(fields["sections"]):
        kind, dtype, name, crc, offset, length = ENTRY.unpack_from(raw, 512 + 24 * number)
        assert offset == end
        body = raw[offset : offset + length]
        end = -(-(offset + length) // 4096) * 4096
        assert not any(raw[offset + length : end])
        assert crc == (0 if kind in (2, 5) else crc32c(body))
        values = np.frombuffer(body, TYPES[dtype])
        if kind == 4:
            named[name] = values
        else:
            assert name == 0xFFFF
            assert kind not in sections
            sections[kind] = values
    footer = raw[end:]
    assert len(footer) == 64
    assert footer[:8] == bytes.fromhex("89465845 0D0A1A0A")
    assert struct.unpack_from("<Q", footer, 8)[0] == len(raw)
    assert not any(footer[32:60])
    assert struct.unpack_from("<I", footer, 60)[0] == crc32c(footer[:60])
    names, rest = [], sections[1].tobytes()
    while rest:
        names.append(rest[1 : 1 + rest[0]].decode("ascii"))
        rest = rest[1 + rest[0] :]
    return fields, sections, {names[index]: values for index, values in named.items()}, footer[16:32].hex()


def read_manifest(folder):
    line, check, end = (folder / "manifest.json").read_bytes().split(b"\n")
    assert check == b"crc32c:%08x" % crc32c(line)
    assert end == b""
    return json.loads(line)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(3)
    with data.ShardWriter(
        tmp_path / "set",
        chunk_tokens=12,
        vocab_size=1000,
        sources=["web", "código"],
        tokenizer=bytes(range(16)),
        score_columns={"s": "nats"},
        sorted_by=("s", True),
        token_mask=True,
        shard_bytes=14 * 4096,
    ) as writer:
        for i in range(300):
            size = 12 - i % 3
            writer.append(
                rng.integers(0, 1000, size),
                source="código",
                doc_id=2**63 + i,
                doc_offset=5,
                next_token=i if i % 2 else None,
                scores={"s": -i / 7},
                mask=rng.random(size) < 0.5,
            )
    data.open(tmp_path / "set").add_columns({"x": rng.normal(size=300), "n": np.arange(300, dtype=np.uint64)})
    return tmp_path / "set"


def test_the_document_describes_the_files(folder):
    ds = data.open(folder)
    manifest = read_manifest(folder)
    assert len(manifest["shards"]) > 1
    assert sorted(manifest) == [
        *("chunk_tokens", "columns", "dtype", "format", "generation", "parent", "shards", "sorted_by", "sources"),
        *("token_mask", "tokenizer", "uuid", "version", "vocab_size"),
    ]
    assert manifest["sources"] == ["web", "código"]
    for number, shard in enumerate(manifest["shards"]):
        base, chunks = shard["base"], shard["chunks"]
        fields, sections, columns, root = read_file(folder / shard["name"])
        assert (folder / shard["name"]).stat().st_size == shard["bytes"]
        assert root == shard["root"]
        assert (fields["kind"], fields["number"], fields["chunks"]) == (1, number, chunks)
        assert fields["uuid"].hex() == manifest["uuid"]
        assert fields["tokenizer"].hex() == manifest["tokenizer"] == bytes(range(16)).hex()
        assert (fields["chunk_tokens"], fields["vocab_size"], fields["parent"]) == (12, 1000, bytes(16))
        assert list(columns).index("s") == fields["sort_name"]
        assert (fields["descending"], fields["nan_last"]) == (1, 1)
        tokens = sections[2].reshape(chunks, 12)
        masks = sections[5].reshape(chunks, 2)
        for i in range(chunks):
            assert np.array_equal(tokens[i], ds[base + i])
            assert sections[3][i] == crc32c(tokens[i].tobytes() + masks[i].tobytes())
            bits = [masks[i][t // 8] >> t % 8 & 1 for t in range(12)]
            assert np.array_equal(bits, ds.token_mask(base + i))
        for sidecar in shard["sidecars"]:
            car, parts, added, car_root = read_file(folder / sidecar["name"])
            assert (car["kind"], car["number"], car["parent"].hex()) == (2, number, root)
            assert (car_root, sorted(added), list(parts)) == (sidecar["root"], sorted(sidecar["columns"]), [1])
            columns |= added
        assert sorted(columns) == sorted(ds.columns)
        for name, values in columns.items():
            assert np.array_equal(values, ds.column(name)[base : base + chunks])
        assert (shard["first_key"], shard["last_key"]) == (columns["s"][0], columns["s"][-1])
        assert shard["quantiles"]["x"][0] == columns["x"].min()


def test_the_root_hash_is_xxh3_128(folder):
    xxhash = pytest.importorskip("xxhash")
    for shard in read_manifest(folder)["shards"]:
        raw = (folder / shard["name"]).read_bytes()
        _, sections, _, root = read_file(folder / shard["name"])
        assert xxhash.xxh3_128_hexdigest(raw[:4096] + sections[3].tobytes()) == root


def test_the_manifest_hash_is_blake2b(folder):
    import hashlib

    line = (folder / "manifest.json").read_bytes().split(b"\n")[0]
    assert data.open(folder).manifest.hash == hashlib.blake2b(line, digest_size=16).hexdigest()
