"""Expected calibration error: how far a model's confidence is from how often it is right."""

import torch
from accelerate import Accelerator
from torch import Tensor


class Calibration:
    """Counts predictions by their confidence, on the device; nothing waits for it before `error`.

    The confidence is the probability of the likeliest class. Predictions fall into `bins` intervals of equal width;
    the error is sum over bins of (share of the predictions) x |mean confidence - accuracy|, within [0, 1]
    (Guo et al., 2017, arXiv:1706.04599).

    Args:
        accelerator: Device, and the ranks to sum over.
        bins: Intervals of [0, 1].
    """

    def __init__(self, accelerator: Accelerator, bins: int = 15) -> None:
        self.accelerator = accelerator
        self.bins = bins
        # Predictions, sum of their confidence, and how many were right.
        self.sums = torch.zeros(bins, 3, dtype=torch.float64, device=accelerator.device)

    def add(self, confidence: Tensor, right: Tensor, counted: Tensor) -> None:
        """Take predictions.

        Args:
            confidence: [...], within [0, 1].
            right: [...] bool.
            counted: [...] bool; the others are left out.
        """
        bin_of = (confidence * self.bins).long().clamp(0, self.bins - 1).flatten()
        values = torch.stack([torch.ones_like(confidence), confidence, right.to(confidence.dtype)], dim=-1)
        kept = torch.where(counted[..., None], values, 0)  # not a product: what is left out may be NaN
        self.sums.index_add_(0, bin_of, kept.reshape(-1, 3).double())

    def error(self) -> float:
        """The error over all ranks; NaN where nothing was counted. All ranks call it."""
        count, confidence, right = self.accelerator.reduce(self.sums.clone(), "sum").unbind(1)
        return float((confidence - right).abs().sum() / count.sum())
