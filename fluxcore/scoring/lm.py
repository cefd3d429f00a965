"""Score by a causal language model of the `transformers` library."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fluxcore.data import Dataset
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.errors import require
from fluxcore.integrations.model_head import hidden_instead_of_logits, linear_head, logits_are_linear
from fluxcore.ops.linear_softmax_stats import linear_softmax_stats
from fluxcore.ops.softmax_stats import softmax_stats
from fluxcore.scoring.chunk_scores import TokenStats
from fluxcore.scoring.scorer import ChunkBatch, TokenScorer, check_tokenizer, check_vocabulary

_STATS_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}  # float32 logits worked on at once: within a cache, or few launches
_NO_MEANING = ("_name_or_path", "architectures", "dtype", "transformers_version")  # of a config: where it came from
_OUTPUTS = ("entropy", "varentropy", "logprob")


class LanguageModelScorer(TokenScorer):
    """Statistics of a model's next-token distributions, in float32; no softmax is stored.

    Of a model with a linear head no logits are stored but a chunk of them (`fluxcore.linear_softmax_stats`).
    Each chunk is read on its own, from its first token, so a score depends on nothing but the chunk.
    """

    def __init__(
        self,
        model: str | Path | nn.Module,
        *,
        revision: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        include_last: bool = False,
        include_bos: bool = False,
    ) -> None:
        """Load, or take, a model.

        Args:
            model: name on the Hugging Face hub, folder of a checkpoint, or a module that is called like a
                `transformers` causal language model and has its `config`. A module stays on its device, in its dtype.
            revision: commit or tag of a name.
            dtype: what a named model computes in.
            device: where a named model runs; None for the GPU, where there is one.
            include_last: count the prediction of what follows a chunk.
            include_bos: put the model's BOS token before each chunk, and count the prediction of its first token.
        Raises:
            OSError: no such model, or the hub cannot be reached.
            MissingExtraError: a name, and `transformers` is not installed.
            ValueError: `include_bos` for a model without a BOS token, or a head without values.
        """
        super().__init__(include_last=include_last, include_bos=include_bos)
        self._tokenizer: Tokenizer | None = None
        if isinstance(model, nn.Module):
            self._model: Any = model
            self.name = str(getattr(model.config, "name_or_path", "") or type(model).__name__)
        else:
            require("transformers", extra="train")
            from fluxcore.training.models import pretrained_model

            self._model = pretrained_model(str(model), revision=revision)
            self._model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"), dtype)
            self._tokenizer = _tokenizer_of(model, revision)
            self.name = f"{model}@{revision}" if revision else str(model)
        bos_id = getattr(self._model.config, "bos_token_id", None)
        self._bos_id = -1 if bos_id is None else int(bos_id)
        if include_bos and bos_id is None:
            raise ValueError(f"`include_bos` needs a BOS token, and the model `{self.name}` has none")
        self._head = _linear_head_or_none(self._model)
        self.fingerprint = _fingerprint(self._model, include_last, include_bos)

    def check(self, ds: Dataset) -> None:
        """Raise ValueError when `ds` has other tokens than the model, or chunks longer than its context."""
        what = f"the model `{self.name}`"
        check_vocabulary(ds, self._model.config.vocab_size, what)
        if self._tokenizer is not None:
            check_tokenizer(ds, self._tokenizer, what)
        context = getattr(self._model.config, "max_position_embeddings", None)
        longest = ds.chunk_tokens + self.include_bos
        if context is not None and longest > context:
            raise ValueError(
                f"{what} has a context of {context} tokens, the chunks of `{ds.path}` need {longest}"
                "\n\nTokenise with a smaller `chunk_tokens`."
            )

    def token_stats(self, batch: ChunkBatch) -> TokenStats:
        """Statistics of every prediction, [n, T + 1], from one forward pass."""
        n, T = batch.tokens.shape
        L = int(batch.valid_lens.max())
        first = 0 if self.include_bos else 1
        # A causal model does not look ahead: padding stands behind all that counts, and needs no mask.
        inputs = torch.from_numpy(batch.tokens[:, :L])
        targets = torch.from_numpy(np.maximum(batch.sequence[:, first : L + 1], 0))
        if self.include_bos:
            inputs = torch.cat([torch.full((n, 1), self._bos_id), inputs], dim=1)
        wanted = np.arange(first, L + 1) <= batch.valid_lens[:, None]
        device = self._model.get_input_embeddings().weight.device
        with _evaluating(self._model), torch.inference_mode():
            flat = targets.flatten(), torch.from_numpy(wanted.reshape(-1))
            if self._head is None:
                logits = self._model(input_ids=inputs.to(device), use_cache=False).logits
                rows = _row_stats(logits.flatten(0, 1), *flat)
            else:
                with hidden_instead_of_logits(self._head):
                    hidden = self._model(input_ids=inputs.to(device), use_cache=False).logits
                rows = _row_stats_of_head(hidden.flatten(0, 1), self._head, *flat)
        stats = np.zeros((3, n, T + 1))
        stats[:, :, first : L + 1][:, wanted] = rows
        return TokenStats(stats[0], stats[1], -stats[2])


def _row_stats(logits: Tensor, targets: Tensor, wanted: Tensor) -> NDArray[np.float32]:
    """[3, wanted rows] in the order of `_OUTPUTS`, of logits [N, V], some rows at a time."""
    rows_at_once = max(1, _STATS_BYTES.get(logits.device.type, 64 << 20) // (4 * logits.shape[1]))
    parts = []
    for ids in wanted.nonzero().flatten().split(rows_at_once):
        start, stop = int(ids[0]), int(ids[-1]) + 1
        own: Any = slice(start, stop) if len(ids) == stop - start else ids  # without padding nothing is copied
        stats = softmax_stats(
            logits[own.to(logits.device) if isinstance(own, Tensor) else own].float(),
            targets[own].to(logits.device),
            outputs=_OUTPUTS,
        )
        parts.append(torch.stack([getattr(stats, name) for name in _OUTPUTS]).cpu())
    return torch.cat(parts, dim=1).numpy()


def _row_stats_of_head(hidden: Tensor, head: nn.Linear, targets: Tensor, wanted: Tensor) -> NDArray[np.float32]:
    """As `_row_stats`, from what goes into the head, [N, D]."""
    own = wanted.nonzero().flatten()
    hidden = hidden[own.to(hidden.device)].to(head.weight.dtype)
    target = targets[own].to(hidden.device)
    stats = linear_softmax_stats(hidden, head.weight, target, linear_bias=head.bias, outputs=_OUTPUTS)
    return torch.stack([getattr(stats, name) for name in _OUTPUTS]).float().cpu().numpy()


def _linear_head_or_none(model: Any) -> nn.Linear | None:
    """The head of `model` if its logits are nothing but the head's."""
    try:
        head = linear_head(model)
    except TypeError:  # another head: its logits are taken as they are
        return None
    return head if logits_are_linear(model, head) else None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout; the model's mode is given back."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _tokenizer_of(spec: str | Path, revision: str | None) -> Tokenizer | None:
    """The tokenizer beside a model, where it has one in a form that can be compared."""
    if Path(spec).is_dir():
        path: Any = Path(spec) / "tokenizer.json"
        return Tokenizer.load(path) if path.exists() else None
    hub = require("transformers.utils.hub", extra="train")
    path = hub.cached_file(
        str(spec),
        "tokenizer.json",
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if path is None else Tokenizer.load(path)


def _fingerprint(model: Any, include_last: bool, include_bos: bool) -> str:
    config = {key: value for key, value in model.config.to_diff_dict().items() if key not in _NO_MEANING}
    facts = [type(model).__name__, config, include_last, include_bos]
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True, default=str).encode(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
