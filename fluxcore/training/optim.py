"""AdamW as language models use it."""

from collections.abc import Sequence

from torch import nn
from torch.optim import AdamW


def adamw(
    model: nn.Module, *, lr: float, weight_decay: float = 0.1, betas: Sequence[float] = (0.9, 0.95), eps: float = 1e-8
) -> AdamW:
    """AdamW whose decay leaves out norms and biases: every parameter with fewer than two dimensions.

    Args:
        model: Parameters that require no gradient are left out; one shared by two modules counts once.
        lr: Learning rate.
        weight_decay: Decoupled, of matrices and embeddings.
        betas: Decay rates of the two moments.
        eps: Added to the root of the second moment.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=lr, betas=(betas[0], betas[1]), eps=eps)
