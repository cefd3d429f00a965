"""Entropy of the labels of a micro-batch."""

import torch
from torch import Tensor


def target_entropy(targets: Tensor, classes: int) -> Tensor:
    """Entropy of how often each class is a target; less where a batch is cut. Nothing waits for the device.

    Args:
        targets: [n] int64; -100 where there is none.
        classes: Number of classes, C.
    Returns:
        Scalar, nats, within [0, ln C]; 0 where there is no target.
    """
    counted = targets >= 0
    counts = torch.zeros(classes + 1, dtype=torch.float64, device=targets.device)
    counts.index_add_(0, torch.where(counted, targets, classes), counted.double())
    share = counts / counts.sum().clamp(min=1)
    entropy: Tensor = -torch.special.xlogy(share, share).sum()
    return entropy
