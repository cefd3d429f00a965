"""Score by how well a general compressor packs the text: neither weights nor fitting."""

import hashlib
import lzma
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from fluxcore.data import Dataset
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.scoring.chunk_scores import UNSCORED, Floats
from fluxcore.scoring.scorer import ChunkBatch, Scorer, check_tokenizer, check_vocabulary

# Raw streams: the headers and checksums of a file would weigh more than the differences between short texts.
_LZMA_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 16}]


def _zlib(data: bytes) -> int:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9)
    return len(packer.compress(data)) + len(packer.flush())


def _lzma(data: bytes) -> int:
    return len(lzma.compress(data, lzma.FORMAT_RAW, filters=_LZMA_FILTERS))


CODECS: dict[str, Callable[[bytes], int]] = {"zlib": _zlib, "lzma": _lzma}
"""Bytes that are left of a text, by name of the compressor."""


class CompressionScorer(Scorer):
    """Compresses the text of each chunk on its own."""

    def __init__(self, tokenizer: Tokenizer, *, codec: str = "zlib") -> None:
        """Compress what `tokenizer` decodes by `codec`, one of `CODECS`; ValueError for another."""
        if codec not in CODECS:
            raise ValueError(f"`codec` must be one of {', '.join(CODECS)}, got {codec!r}")
        self.name = codec
        self._size, self._tokenizer = CODECS[codec], tokenizer
        version = zlib.ZLIB_RUNTIME_VERSION if codec == "zlib" else ""
        facts = f"compression/1/{codec}/{version}/{tokenizer.fingerprint.hex()}"
        self.fingerprint = hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()

    @property
    def columns(self) -> Mapping[str, str]:
        """Bits a byte and ratio."""
        return {
            "bits_per_byte": "bits of the compressed text a byte of UTF-8 text",
            "compression_ratio": "bytes of the compressed text over bytes of UTF-8 text",
        }

    def check(self, ds: Dataset) -> None:
        """Raise ValueError when `ds` was tokenised by another tokenizer."""
        check_tokenizer(ds, self._tokenizer, "the scorer")
        check_vocabulary(ds, self._tokenizer.vocab_size, "the scorer's tokenizer")

    def score_batch(self, batch: ChunkBatch) -> Mapping[str, Floats]:
        """The scores of each chunk; `UNSCORED` for one whose tokens decode to no text."""
        ratio = np.full(len(batch.tokens), UNSCORED)
        for i, (tokens, length) in enumerate(zip(batch.tokens, batch.valid_lens, strict=True)):
            text = self._tokenizer.decode(tokens[:length]).encode()
            if text:
                ratio[i] = self._size(text) / len(text)
        return {"bits_per_byte": np.where(ratio < 0, UNSCORED, 8 * ratio), "compression_ratio": ratio}
