"""AdamW as language models use it."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import AdamW


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups whose decay leaves out norms and biases: every parameter with fewer than two dimensions.

    Args:
        model: Parameters that require no gradient are left out; one shared by two modules counts once.
        weight_decay: Of matrices and embeddings.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def adamw(
    model: nn.Module, *, lr: float, weight_decay: float = 0.1, betas: Sequence[float] = (0.9, 0.95), eps: float = 1e-8
) -> AdamW:
    """AdamW whose decay leaves out norms and biases.

    Args:
        model: Parameters as in `decay_groups`.
        lr: Learning rate.
        weight_decay: Decoupled, of matrices and embeddings.
        betas: Decay rates of the two moments.
        eps: Added to the root of the second moment.
    """
    return AdamW(decay_groups(model, weight_decay), lr=lr, betas=(betas[0], betas[1]), eps=eps)
