"""Small classifiers of a few tokens: a perceptron on one-hot inputs, and a transformer of one layer."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# The MLP that arXiv:2501.04697 trains: [2 x 113 one-hot] -> 200 -> 200 -> 113, ReLU, no biases.
WIDTH = 200


class OneHotLinear(nn.Module):
    """A linear layer on the one-hot inputs of several places, put end to end; the zeros are never multiplied.

    Args:
        vocabulary: Tokens that a place may have.
        places: Tokens in a row.
        width: Outputs.
    """

    first_of_place: Tensor

    def __init__(self, vocabulary: int, places: int, width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(vocabulary * places)  # as torch.nn.Linear begins
        self.weight = nn.Parameter(torch.empty(vocabulary * places, width).uniform_(-bound, bound))
        self.register_buffer("first_of_place", vocabulary * torch.arange(places), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, places] int64 -> [n, width]."""
        return functional.embedding_bag(tokens + self.first_of_place, self.weight, mode="sum")


def mlp(vocabulary: int, places: int, classes: int, *, width: int = WIDTH, layers: int = 2) -> nn.Module:
    """Hidden layers of rectified units without biases: weights scale the logits and do nothing else."""
    modules: list[nn.Module] = [OneHotLinear(vocabulary, places, width), nn.ReLU()]
    for _ in range(layers - 1):
        modules += [nn.Linear(width, width, bias=False), nn.ReLU()]
    return nn.Sequential(*modules, nn.Linear(width, classes, bias=False))


class OneLayerTransformer(nn.Module):
    """Tokens with learned positions, one layer of attention and perceptron, and the answer at the last place."""

    def __init__(self, vocabulary: int, places: int, classes: int, *, width: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(places, width)
        self.layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, places] int64 -> logits [n, classes]."""
        hidden = self.embedding(tokens) + self.position.weight
        logits: Tensor = self.head(self.layer(hidden)[:, -1])
        return logits


CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "transformer": OneLayerTransformer}


def make_classifier(
    name: str, *, vocabulary: int, places: int, classes: int, overrides: Mapping[str, Any]
) -> nn.Module:
    """A classifier with random weights, drawn from torch's global generator.

    Args:
        name: `mlp` or `transformer`.
        vocabulary: Tokens are below it.
        places: Tokens in a row.
        classes: Logits.
        overrides: Of `mlp`: width, layers; of `transformer`: width, heads; each a whole number >= 1.
    Raises:
        ValueError: another name, an unknown field, or a number out of range.
    """
    if name not in CLASSIFIERS:
        raise ValueError(f"`model` must be one of {', '.join(CLASSIFIERS)} for this task, got {name!r}")
    parameters = inspect.signature(CLASSIFIERS[name]).parameters.values()
    known = [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
    for field, value in overrides.items():
        if field not in known:
            raise ValueError(f"`model_args` has no field {field!r} for {name!r}\n\nIts fields are {', '.join(known)}.")
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`model_args.{field}` must be a whole number >= 1, got {value!r}")
    if name == "transformer":
        width, heads = overrides.get("width", 128), overrides.get("heads", 4)
        if width % heads:
            raise ValueError(f"`model_args.width` must be a multiple of the {heads} heads, got {width}")
    return CLASSIFIERS[name](vocabulary, places, classes, **overrides)
