"""Accuracy, precision, recall and F1 from counts of what was taken for what."""

import torch
from torch import Tensor


def confusion(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """How often each class was taken for each.

    Args:
        predicted: [n] int64, within [0, classes).
        targets: [n] int64, within [0, classes).
        classes: Number of classes, C.
    Returns:
        [C, C] int64: rows are true classes, columns predicted ones. Counts of several batches add up.
    """
    return torch.bincount(targets * classes + predicted, minlength=classes * classes).view(classes, classes)


def macro_scores(counts: Tensor) -> dict[str, float]:
    """Scores as means over classes, each class with the same weight.

    A class that is neither a target nor predicted is left out; a ratio of 0 to 0 counts as 0 otherwise.

    Args:
        counts: [C, C] from `confusion`, at least one row counted.
    Returns:
        `accuracy`, `precision`, `recall`, `f1`, within [0, 1].
    """
    counts = counts.double()
    right, targets, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    met = targets + predicted > 0
    precision = right / predicted.clamp(min=1)
    recall = right / targets.clamp(min=1)
    f1 = 2 * right / (targets + predicted).clamp(min=1)
    return {
        "accuracy": float(right.sum() / counts.sum()),
        "precision": float(precision[met].mean()),
        "recall": float(recall[met].mean()),
        "f1": float(f1[met].mean()),
    }
