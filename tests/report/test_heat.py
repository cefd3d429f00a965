import math

import numpy as np
import pytest

from fluxcore.report.heat import LEVELS, Piece, chunks_to_show, pieces_of


class Utf8:
    """Each byte of UTF-8 is a token."""

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


def test_each_token_is_a_piece_and_the_text_is_whole():
    pieces = pieces_of(list(b"abc"), np.array([math.nan, 1.5, 2.5]), Utf8())
    assert [piece.text for piece in pieces] == ["a", "b", "c"]
    assert math.isnan(pieces[0].entropy)
    assert [piece.entropy for piece in pieces[1:]] == [1.5, 2.5]


def test_the_tokens_of_one_character_are_one_piece_with_their_mean():
    tokens = list("a漢b".encode())
    pieces = pieces_of(tokens, np.array([math.nan, 3.0, 2.0, 1.0, 0.5]), Utf8())
    assert [(piece.text, piece.entropy) for piece in pieces[1:]] == [("漢", 2.0), ("b", 0.5)]


@pytest.mark.parametrize("tokens", [[0xE6, 0xBC], [0xE6, 0xBC, 0x41], [0xFF] * 9])
def test_bytes_that_are_no_character_still_end(tokens):
    pieces = pieces_of(tokens, np.ones(len(tokens)), Utf8())
    assert "".join(piece.text for piece in pieces) == bytes(tokens).decode(errors="replace")


@pytest.mark.parametrize(("entropy", "level"), [(0.0, 0), (0.99, 0), (1.0, 1), (50.0, LEVELS - 1), (math.nan, None)])
def test_levels(entropy, level):
    assert Piece("x", entropy).level == level


def test_chunks_come_from_both_ends_and_the_middle():
    scores = np.array([5, 1, 4, 2, 3, 0, 6, 7], np.float32)
    assert chunks_to_show(scores) == [
        ("lowest", 5), ("lowest", 1), ("median", 4), ("median", 2), ("highest", 6), ("highest", 7),
    ]  # fmt: skip


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4])
def test_few_chunks_are_enough(n):
    shown = chunks_to_show(np.arange(n, dtype=np.float32))
    assert all(0 <= chunk < n for _, chunk in shown)
    assert len(shown) == (3 if n else 0)
