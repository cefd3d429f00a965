"""Bytes, changed."""

import struct

import numpy as np

NUMBERS = (0, 1, 2, 3, 5, 8, 127, 255, 1 << 12, 1 << 15, 1 << 16, 1 << 31, 1 << 32, 1 << 40, 1 << 62, 1 << 63)


def mutate(rng: np.random.Generator, data: bytes, *, low: int = 0, high: int | None = None) -> bytes:
    """One to three changes within [low, high): bits, numbers at the edges of their types, runs, cuts, moved pages."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        stop = min(len(changed) if high is None else high, len(changed))
        if stop <= low:
            break
        place = int(rng.integers(low, stop))
        size = int(rng.integers(1, 65))
        kind = rng.choice(["flip", "number", "step", "cut", "insert", "zero", "copy", "end"])
        if high is not None and kind in ("cut", "insert", "end"):
            kind = "number"  # what lies behind must stay where it is
        if kind == "flip":
            changed[place] ^= 1 << int(rng.integers(8))
        elif kind == "number":
            width = int(rng.choice([1, 2, 4, 8]))
            number = int(rng.choice(np.array(NUMBERS, np.uint64))) + int(rng.integers(-1, 2))
            put(changed, place, struct.pack("<Q", number % (1 << 64))[:width], stop)
        elif kind == "step":  # a field a little larger or smaller than it was
            changed[place] = (changed[place] + int(rng.choice([1, 255]))) % 256
        elif kind == "cut":
            del changed[place : place + size * int(rng.choice([1, 64]))]
        elif kind == "insert":
            changed[place:place] = bytes(size)
        elif kind == "zero":
            put(changed, place, bytes(size), stop)
        elif kind == "copy":
            start = int(rng.integers(low, stop))
            put(changed, place, bytes(changed[start : start + size]), stop)
        else:
            del changed[place:]
    return bytes(changed)


def put(changed: bytearray, place: int, new: bytes, stop: int) -> None:
    """Write over what is there, up to `stop`."""
    new = new[: max(stop - place, 0)]
    changed[place : place + len(new)] = new
