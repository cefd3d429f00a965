"""Byte-level BPE, trained here or given, that turns whole documents into ids and never adds or cuts any."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.progress import Progress, ProgressCallback
from fluxcore.data.text.corpus import Corpus
from fluxcore.errors import require

END_OF_TEXT = "<|endoftext|>"
_END_TOKENS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")  # as GPT-2, Llama 3, Llama 2 and Gemma write it
_NO_MEANING = ("version", "truncation", "padding", "post_processor")  # of a tokenizer's file: they change no id here
_SMALLEST_VOCABULARY = 256 + 1  # the bytes and the end of a text


class Tokenizer:
    """A `tokenizers.Tokenizer` as it is used for shards.

    Encoding neither adds special tokens nor truncates nor pads, whatever the tokenizer's file asks for, and a special
    token's name inside of a text is plain text: a document cannot forge the end of another.
    """

    def __init__(self, inner: Any) -> None:
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        self._inner = inner

    @classmethod
    def train(
        cls,
        corpus: Corpus,
        *,
        vocab_size: int,
        special_tokens: Sequence[str] = (),
        progress: ProgressCallback | None = None,
    ) -> Self:
        """Train byte-level BPE with the special token `<|endoftext|>`, id 0; equal text gives an equal tokenizer.

        Args:
            corpus: the text; empty documents change nothing.
            vocab_size: at least 257: every byte, and the end of a text. A small corpus may not fill it.
            special_tokens: more of them, ids from 1 on; nothing that is encoded has one.
            progress: told after each document that is read, in bytes of text; the training follows at the end.
        Raises:
            ValueError: `vocab_size` too small, or no text.
        """
        smallest = _SMALLEST_VOCABULARY + len(special_tokens)
        if vocab_size < smallest:
            raise ValueError(
                f"`vocab_size` must be >= {smallest}, a token a byte and {END_OF_TEXT}"
                f"{''.join(f', {token}' for token in special_tokens)}, got {vocab_size}"
            )
        tokenizers = _tokenizers()
        inner = tokenizers.Tokenizer(tokenizers.models.BPE())
        inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT, *special_tokens],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(_texts(corpus, progress), trainer)
        return cls(inner)

    @classmethod
    def load(cls, spec: str | Path) -> Self:
        """A tokenizer from a file `tokenizer.json`, a folder with one, or a model's name on the Hugging Face hub.

        Raises:
            OSError: no such file, or a name that the hub does not know or that cannot be reached.
            ValueError: not a tokenizer's file.
        """
        tokenizers = _tokenizers()
        path = Path(spec)
        if path.is_dir():
            path = path / "tokenizer.json"
            if not path.exists():
                raise FileNotFoundError(f"`{spec}` has no tokenizer.json in it")
        if path.is_file():
            try:
                return cls(tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8")))
            except Exception as error:
                raise ValueError(f"`{path}` must be a tokenizer's file (tokenizer.json): {error}") from error
        if path.suffix == ".json" or path.is_absolute() or str(spec).startswith("."):
            raise FileNotFoundError(f"`{spec}` does not exist")
        return cls(_from_hub(str(spec)))

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, added tokens included."""
        return 1 + max(self._inner.get_vocab(with_added_tokens=True).values(), default=-1)

    @property
    def end_id(self) -> int | None:
        """Id of the token that ends a text, by its usual names; None where there is none."""
        ids = (self._inner.token_to_id(token) for token in _END_TOKENS)
        return next((token_id for token_id in ids if token_id is not None), None)

    @property
    def fingerprint(self) -> bytes:
        """16 bytes that are equal for tokenizers which give every text the same ids."""
        parts = json.loads(self.to_json())
        meaning = {key: value for key, value in parts.items() if key not in _NO_MEANING}
        return hashlib.blake2b(json.dumps(meaning, sort_keys=True).encode(), digest_size=16).digest()

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Ids of each text, on all cores."""
        encodings = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens by their names."""
        return str(self._inner.decode([int(token_id) for token_id in ids], skip_special_tokens=False))

    def to_json(self) -> str:
        """The text of a file that `load` reads, and Hugging Face's libraries too."""
        return str(self._inner.to_str())


def _texts(corpus: Corpus, progress: ProgressCallback | None) -> Iterator[str]:
    found, read = False, 0
    for document in corpus:
        read += len(document.text.encode())
        if progress is not None:
            progress(Progress(read, corpus.size_bytes, 0))
        if not document.is_empty:
            found = True
            yield document.text
    if not found:
        raise ValueError(f"no text to train a tokenizer on in {', '.join(corpus.sources)}")


def _from_hub(name: str) -> Any:
    try:
        return _tokenizers().Tokenizer.from_pretrained(name)
    except Exception as error:
        raise OSError(
            f"no tokenizer `{name}`: {error}"
            "\n\nGive a tokenizer.json, a folder with one, or a name on the Hugging Face hub; without a network, a name"
            " that is in its cache."
        ) from error


def _tokenizers() -> Any:
    module = require("tokenizers", extra="train")
    _quiet_forks()
    return module


_forks_are_quiet = False


def _quiet_forks() -> None:
    """Switch the library's threads off in children made by fork, where they would hang, without its warning.

    It does so itself and warns in every child (each worker of a loader) unless the variable is set; the parent's own
    setting, and so its speed, stays as it was.
    """
    global _forks_are_quiet
    if _forks_are_quiet:
        return
    _forks_are_quiet = True
    variable, ours = "TOKENIZERS_PARALLELISM", [False]

    def before() -> None:
        ours[0] = variable not in os.environ
        os.environ.setdefault(variable, "false")

    def after() -> None:
        if ours[0]:
            os.environ.pop(variable, None)

    os.register_at_fork(before=before, after_in_parent=after)
