"""The compressor's ratio of a chunk's text."""

import lzma
import zlib

import numpy as np
import pytest
from support.token_sets import write_tokens

from fluxcore.data.text import files
from fluxcore.data.tokenise import tokenise
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.scoring import CompressionScorer, score


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "a.txt").write_text("the same words, the same words, and then some others\n" * 9)
    return Tokenizer.train(files(tmp_path / "a.txt"), vocab_size=280)


@pytest.mark.parametrize("codec", ["zlib", "lzma"])
def test_repetition_packs_better_and_the_ratio_is_true(tokenizer, tmp_path, codec):
    texts = ["the same words, " * 40, "".join(map(chr, np.random.default_rng(0).integers(33, 127, 640)))]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text)
    corpus = files([tmp_path / "0.txt", tmp_path / "1.txt"])
    tokenise(corpus, tmp_path / "ds", tokenizer, chunk_tokens=800, append_end=False)
    import fluxcore.data

    ds = fluxcore.data.open(tmp_path / "ds")
    score(ds, CompressionScorer(tokenizer, codec=codec), prefix="c")
    repeated, noise = ds.column("c.compression_ratio")
    assert repeated < 0.2 < 0.7 < noise
    np.testing.assert_allclose(ds.column("c.bits_per_byte"), 8 * ds.column("c.compression_ratio"), rtol=1e-6)
    # The stream can be unpacked, so it holds all of the text: its size is what an own packing of it gives.
    data = texts[0].encode()
    if codec == "zlib":
        whole = len(zlib.compress(data, 9)) - 6  # two bytes of header, four of checksum
    else:
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 16}]
        whole = len(lzma.compress(data, lzma.FORMAT_RAW, filters=filters))
    assert abs(repeated * len(data) - whole) <= 1


def test_what_does_not_fit(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="`codec` must be one of zlib, lzma, got 'zip'"):
        CompressionScorer(tokenizer, codec="zip")
    ds = write_tokens(tmp_path / "ds", [([1, 2], None)], chunk_tokens=4, vocab_size=280, tokenizer=b"0" * 16)
    with pytest.raises(ValueError, match="the scorer has another tokenizer than the data set"):
        CompressionScorer(tokenizer).check(ds)
