"""The compiled order as a pure function, against an independent reading of its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcore import _core

M64 = (1 << 64) - 1

# (chunks, epoch) -> the first chunks of a shuffle with seed 2024. A change here is a change of every user's runs.
GOLDEN = {
    (10, 0): [9, 2, 5, 4, 3, 8, 0, 6],
    (10, 3): [0, 1, 6, 8, 4, 3, 7, 9],
    (1000, 0): [248, 290, 705, 649, 824, 361, 245, 7],
    (1000, 3): [636, 681, 354, 221, 477, 931, 738, 35],
    (10**12, 0): [379357834268, 40444481119, 163176564704, 771240269003, 142068806569],
    (10**12, 3): [419939602747, 4767736197, 129534503326, 862366729368, 18626923500],
}


# (walk, width, epoch) of 1000 chunks, with the same seed.
GOLDEN_WALKS = {
    ("jittered", 10, 0): [2, 0, 4, 1, 6, 10, 7, 8, 3, 5],
    ("jittered", 10, 3): [0, 1, 6, 5, 2, 9, 3, 4, 12, 7],
    ("jittered", 300, 0): [35, 89, 31, 148, 46, 94, 116, 23, 128, 13],
    ("jittered", 300, 3): [44, 55, 66, 186, 200, 96, 162, 153, 36, 149],
    ("strided", 7, 0): [0, 7, 14, 21, 28, 35, 42, 49, 56, 63],
    ("strided", 7, 3): [0, 7, 14, 21, 28, 35, 42, 49, 56, 63],
}


def whole(count: int, walk: str, width: int = 1, seed: int = 0) -> _core.Order:
    return _core.RankedOrder(None, count, [(0, count, walk, width)], seed)


def shuffled(count: int, seed: int = 0) -> _core.Order:
    return whole(count, "shuffled", seed=seed)


def mix64(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & M64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & M64
    return x ^ x >> 31


def derive_key(key: int, value: int) -> int:
    return mix64(mix64(key + 0x9E3779B97F4A7C15 & M64) ^ (value + 0xD1B54A32D192ED03 & M64))


def permuted(key: int, size: int, index: int) -> int:
    bits = (max(size, 256) - 1).bit_length()
    low_bits = bits // 2
    while True:
        low, high = index & (1 << low_bits) - 1, index >> low_bits
        for turn in range(6):
            x = ((high if turn % 2 else low) ^ derive_key(key, turn)) * 0xBF58476D1CE4E5B9 & M64
            x = (x ^ x >> 32) * 0x94D049BB133111EB & M64
            if turn % 2:
                low ^= x >> 32 & (1 << low_bits) - 1
            else:
                high ^= x >> 32 & (1 << bits - low_bits) - 1
        index = high << low_bits | low
        if index < size:
            return index


@pytest.mark.parametrize(("count", "epoch"), GOLDEN, ids=str)
def test_golden_vectors(count, epoch):
    expected = GOLDEN[count, epoch]
    assert shuffled(count, 2024).chunks_at(epoch * count, len(expected)).tolist() == expected


@pytest.mark.parametrize(("walk", "width", "epoch"), GOLDEN_WALKS, ids=str)
def test_golden_vectors_of_walks(walk, width, epoch):
    expected = GOLDEN_WALKS[walk, width, epoch]
    assert whole(1000, walk, width, 2024).chunks_at(epoch * 1000, 10).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1 << 40), st.integers(0, M64), st.integers(0, 5), st.data())
def test_a_shuffle_is_what_its_definition_says(count, seed, epoch, data):
    index = data.draw(st.integers(0, count - 1))
    key = derive_key(derive_key(seed, epoch), 0)
    [chunk] = shuffled(count, seed).chunks_at(epoch * count + index, 1).tolist()
    assert chunk == permuted(key, count, index)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(0, M64), st.integers(0, 1000))
def test_every_epoch_is_a_permutation(count, seed, epoch):
    chunks = shuffled(count, seed).chunks_at(epoch * count, count)
    assert np.array_equal(np.sort(chunks), np.arange(count))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1, max_size=6), st.data())
def test_segments_cover_their_ranks_and_batches_may_be_cut_anywhere(parts, data):
    sizes = [size for size, _ in parts]
    count = sum(sizes)
    firsts = np.cumsum([0, *sizes[:-1]])
    ranking = np.random.default_rng(0).permutation(count).astype(np.uint64)
    segments = [
        (int(first), size, "shuffled" if walk else "forward", 1)
        for first, (size, walk) in zip(firsts, parts, strict=True)
    ]
    order = _core.RankedOrder(ranking, count, segments, 5)
    run = order.chunks_at(0, 2 * count)
    for epoch in range(2):
        for first, size, walk, _ in segments:
            shuffle = walk == "shuffled"
            part = run[epoch * count + first :][:size]
            expected = ranking[first : first + size]
            assert np.array_equal(np.sort(part) if shuffle else part, np.sort(expected) if shuffle else expected)
    start = data.draw(st.integers(0, 2 * count))
    length = data.draw(st.integers(0, 2 * count - start))
    assert np.array_equal(order.chunks_at(start, length), run[start : start + length])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 400), st.integers(0, M64), st.integers(0, 5))
def test_jitter_permutes_and_moves_nothing_by_the_window(count, window, seed, epoch):
    chunks = whole(count, "jittered", window, seed).chunks_at(epoch * count, count).astype(np.int64)
    assert np.array_equal(np.sort(chunks), np.arange(count))
    assert np.abs(chunks - np.arange(count)).max() < window


@pytest.mark.parametrize("window", [2, 3, 10, 101])
def test_jitter_uses_its_window_everywhere(window):
    """Over many epochs every place is left, and the farthest move is the window's."""
    count = 4 * window + 5
    order = whole(count, "jittered", window)
    moves = order.chunks_at(0, 400 * count).astype(np.int64).reshape(400, count) - np.arange(count)
    assert np.all(np.any(moves != 0, axis=0))
    if window < 100:  # beyond, the farthest move of so many has a small chance
        assert np.abs(moves).max() == window - 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.data())
def test_strides_are_slices(count, data):
    strides = data.draw(st.integers(1, count))
    order = whole(count, "strided", strides)
    expected = np.concatenate([np.arange(count)[start::strides] for start in range(strides)])
    assert np.array_equal(order.chunks_at(0, 2 * count), np.tile(expected, 2))


def test_small_windows_shuffle_fairly():
    """Chi-square at five standard deviations, of where the chunk in the middle of a block of five goes."""
    seeds = 4000
    seen = np.zeros(5)
    for seed in range(seeds):  # of nine places only the blocks decide, whose borders lie anywhere
        chunks = whole(5, "jittered", 100, seed).chunks_at(0, 5)
        seen[int(np.flatnonzero(chunks == 2)[0])] += 1
    assert seen.min() > 0
    assert abs(seen[0] - seen[4]) < 5 * np.sqrt(seen[0] + seen[4])


@pytest.mark.parametrize(("walk", "width"), [("jittered", 0), ("strided", 0), ("strided", 11)])
def test_widths_that_cannot_be_are_refused(walk, width):
    with pytest.raises(ValueError, match="the width of a segment must be within"):
        whole(10, walk, width)
    with pytest.raises(ValueError, match="a walk must be one of forward, shuffled, jittered, strided, got sideways"):
        whole(10, "sideways")


@pytest.mark.parametrize(("walk", "width"), [("shuffled", 1), ("jittered", 20), ("strided", 7)])
def test_the_rest_of_a_pass_is_what_the_epoch_still_brings(walk, width):
    order = whole(50, walk, width)
    assert order.rest_of_pass(0).size == order.rest_of_pass(100).size == 0
    assert np.array_equal(order.rest_of_pass(63), order.chunks_at(63, 37))


@pytest.mark.parametrize("count", [2, 3, 4, 10, 256, 257, 1000])
def test_every_chunk_is_as_likely_at_every_place(count):
    """Chi-square of the first and of the last place over many seeds, at five standard deviations."""
    seeds = 200 * min(count, 50)
    for place in (0, count - 1):
        seen = np.bincount(
            [int(shuffled(count, seed).chunks_at(place, 1)[0]) for seed in range(seeds)], minlength=count
        )
        expected = seeds / count
        chi_square = float(((seen - expected) ** 2 / expected).sum())
        assert abs(chi_square - (count - 1)) < 5 * np.sqrt(2 * (count - 1)) + 5


@pytest.mark.parametrize("count", [1 << 16, 100_003])
def test_neighbours_in_a_shuffle_have_nothing_to_do_with_each_other(count):
    """Serial correlation at several lags, and the share of ascending steps, at five standard deviations."""
    chunks = shuffled(count, 11).chunks_at(0, count).astype(np.float64)
    for lag in (1, 2, 3, 16, 1024):
        correlation = np.corrcoef(chunks[:-lag], chunks[lag:])[0, 1]
        assert abs(correlation) < 5 / np.sqrt(count)
    rises = np.mean(chunks[1:] > chunks[:-1])
    assert abs(rises - 0.5) < 5 * np.sqrt(1 / (12 * count))


def test_epochs_and_seeds_shuffle_independently():
    count = 1 << 14
    first = shuffled(count, 1).chunks_at(0, count)
    for other in (shuffled(count, 1).chunks_at(count, count), shuffled(count, 2).chunks_at(0, count)):
        fixed = int(np.sum(first == other))
        assert fixed < 12  # Poisson with mean 1
        assert abs(np.corrcoef(first.astype(float), other.astype(float))[0, 1]) < 5 / np.sqrt(count)


def test_batches_of_a_shuffle_spread_over_sorted_data():
    """The mean of 32 rows deviates as much as under a true shuffle: sorted neighbours do not travel together."""
    count, rows = 1 << 15, 32
    means = shuffled(count, 3).chunks_at(0, count).reshape(-1, rows).mean(axis=1)
    expected = np.sqrt((count**2 - 1) / 12 / rows)
    assert 0.9 < means.std() / expected < 1.1


def test_radix_argsort_refuses_what_is_no_permutation():
    with pytest.raises(IndexError, match="`permutation`"):
        _core.radix_argsort(np.zeros(2, np.uint64), np.arange(3, dtype=np.uint64))
