"""Causal language models by name: pretrained ones, and small ones with random weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

# Random weights. Dropout is off, as usual for one or few epochs.
GPT2_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
NAMED_CONFIGS: dict[str, dict[str, Any]] = {
    # 4 layers of 12 D^2 with D = 128: 0.8 M parameters, and 128 for each token of the vocabulary and each position.
    "micro": {"model_type": "gpt2", "n_layer": 4, "n_embd": 128, "n_head": 4, **GPT2_NO_DROPOUT},
    # 4.7 M parameters, and 256 for each token of the vocabulary.
    "llama-tiny": {
        "model_type": "llama",
        "num_hidden_layers": 6,
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
    # 124 M parameters at V = 50257.
    "gpt2-small": {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, **GPT2_NO_DROPOUT},
}
# The library's defaults are ids of another vocabulary than ours.
NO_SPECIAL_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def load_model(
    spec: str | Path, *, vocab_size: int, context: int, overrides: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """A model that can be trained on sequences of `context` tokens out of `vocab_size`.

    Args:
        spec: A named configuration (`micro`, `llama-tiny`, `gpt2-small`: random weights drawn from torch's global
            generator), a folder as `save_pretrained` and our checkpoints write it, or a name on the Hugging Face
            hub. Code from the hub is never run.
        vocab_size: Token ids of the data are below it. A pretrained model may have more.
        context: Tokens in a sequence.
        overrides: Fields of the named configuration to change.
    Returns:
        A `transformers` model in float32.
    Raises:
        ValueError: an unknown field in `overrides`, or a model whose vocabulary or context is too small.
        OSError: no such folder, or a name that is neither in the local cache nor can be fetched.
    """
    spec = str(spec)
    if spec in NAMED_CONFIGS:
        return random_model(spec, vocab_size, context, overrides or {})
    refuse_overrides(spec, overrides)
    model = pretrained_model(spec)
    check_fits(spec, model.config, vocab_size, context)
    return model


def check_model(spec: str | Path, *, context: int, overrides: Mapping[str, Any] | None = None) -> None:
    """Refuse what `load_model` would refuse whatever the data, before text is tokenised for hours.

    Raises:
        ValueError: an unknown field in `overrides`, or a model whose context is too small.
        OSError: no such model.
    """
    spec = str(spec)
    if spec in NAMED_CONFIGS:
        random_config(spec, 1, context, overrides or {})
    else:
        refuse_overrides(spec, overrides)
        check_fits(spec, pretrained(AutoConfig, spec), 0, context)


def refuse_overrides(spec: str, overrides: Mapping[str, Any] | None) -> None:
    """A pretrained model is as it is."""
    if overrides:
        raise ValueError(
            f"`model_args` change a named configuration, but `model` is {spec!r}"
            f"\n\nRemove them (~model_args on the command line), or choose one of {', '.join(NAMED_CONFIGS)}."
        )


def random_model(name: str, vocab_size: int, context: int, overrides: Mapping[str, Any]) -> PreTrainedModel:
    """A named configuration with random weights."""
    config = random_config(name, vocab_size, context, overrides)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return model


def random_config(name: str, vocab_size: int, context: int, overrides: Mapping[str, Any]) -> PretrainedConfig:
    """A named configuration, changed and checked."""
    fields: dict[str, Any] = {**NAMED_CONFIGS[name], **NO_SPECIAL_TOKENS, "vocab_size": vocab_size}
    model_type = fields.pop("model_type")
    fields["n_positions" if model_type == "gpt2" else "max_position_embeddings"] = context
    known = AutoConfig.for_model(model_type)
    for field in overrides:
        if not hasattr(known, field):
            raise ValueError(
                f"`model_args` has no field {field!r} for {name!r}"
                f"\n\nIts fields include {', '.join(key for key in fields if not key.endswith('_id'))}."
            )
    config: PretrainedConfig = AutoConfig.for_model(model_type, **{**fields, **overrides})
    check_fits(name, config, vocab_size, context)
    return config


def pretrained_model(spec: str, *, revision: str | None = None) -> PreTrainedModel:
    """Weights from a folder, the local cache or the hub, there at a commit or tag if `revision` names one."""
    model: PreTrainedModel = pretrained(AutoModelForCausalLM, spec, revision=revision, dtype=torch.float32)
    return model


def pretrained(auto: Any, spec: str, *, revision: str | None = None, **options: Any) -> Any:
    """A model or its configuration, whichever `auto` makes."""
    is_path = spec.startswith(("/", "./", "../", "~")) or Path(spec).exists()
    folder = Path(spec).expanduser()
    if is_path and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"`model` must be a folder with config.json and model.safetensors, got {spec}"
            f"\n\nTo train from random weights, name one of {', '.join(NAMED_CONFIGS)}."
        )
    try:
        # A download is worth a bar, reading a folder is not.
        with no_progress_bar() if is_path else nullcontext():
            return auto.from_pretrained(
                str(folder) if is_path else spec, revision=revision or "main", trust_remote_code=False, **options
            )
    except OSError as error:
        raise OSError(
            f"`model` {spec!r} could not be loaded: {str(error).splitlines()[0]}"
            "\n\nWithout a network, give the path of a folder with the model's config.json and model.safetensors."
            f" To train from random weights, name one of {', '.join(NAMED_CONFIGS)}."
        ) from error


def check_fits(spec: str, config: PretrainedConfig, vocab_size: int, context: int) -> None:
    """Refuse a model that would meet ids or positions that it has no embedding for."""
    if config.vocab_size < vocab_size:
        raise ValueError(
            f"`model` {spec!r} knows {config.vocab_size} tokens, and the data has ids up to {vocab_size - 1}"
            "\n\nTokenise the data with the model's own tokenizer, or choose another model."
        )
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and longest < context:
        raise ValueError(
            f"`model` {spec!r} reads {longest} tokens at most, and a sequence has {context}"
            f"\n\nSet seq to a divisor of {context} that is at most {longest}."
        )


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing its own over ours."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
