"""What a machine can do, given or measured on the spot: the rates from which expected times follow."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from fluxcore.ops._linear_schedule import balance


class Rates(NamedTuple):
    """None for both: no times."""

    bandwidth_gb_per_s: float | None
    """1e9 bytes a second, read plus written."""
    tflop_per_s: float | None
    """1e12 operations a second of matrix products."""


def rates_of(
    device: torch.device, dtype: torch.dtype, bandwidth_gb_per_s: float | None, tflop_per_s: float | None, measure: bool
) -> Rates:
    """Those given, or measured; products without a rate of their own have that which the linear ops plan with."""
    for name, value in (("bandwidth_gb_per_s", bandwidth_gb_per_s), ("tflop_per_s", tflop_per_s)):
        if value is not None and measure:
            raise ValueError(f"`measure` is of no use with `{name}`, got {value}")
        if value is not None and not value > 0:
            raise ValueError(f"`{name}` must be > 0, got {value}")
    if measure:
        return Rates(_copy_rate(device), _product_rate(device, dtype))
    if bandwidth_gb_per_s is None:
        if tflop_per_s is not None:
            raise ValueError(f"`bandwidth_gb_per_s` must be given with `tflop_per_s`, got None and {tflop_per_s}")
        return Rates(None, None)
    return Rates(bandwidth_gb_per_s, tflop_per_s or balance(dtype, device.type) * bandwidth_gb_per_s / 1e3)


def _copy_rate(device: torch.device) -> float:
    """Best of some copies, in 1e9 bytes read plus written a second."""
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"`measure` needs the device itself, got {device}, and torch sees no GPU")
    source = torch.ones(256 << 20, dtype=torch.uint8, device=device)
    out = torch.zeros_like(source)
    return 2 * source.numel() / _best_seconds(lambda: out.copy_(source), device) / 1e9


def _product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Best of some matrix products, in 1e12 operations a second."""
    size = 8192 if device.type == "cuda" else 1024
    factor = torch.ones((size, size), dtype=dtype, device=device)
    return 2 * size**3 / _best_seconds(lambda: factor @ factor, device) / 1e12


def _best_seconds(call: Callable[[], object], device: torch.device) -> float:
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
