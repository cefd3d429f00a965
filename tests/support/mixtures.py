"""Loaders that mix the two sources of a small data set."""

from typing import Any

from fluxcore import _core
from fluxcore.data import Dataset, Loader, Order

PERIOD = _core.MixedOrder.period
MIX = {"web": 0.7, "code": 0.3}


def mixture_loader(ds: Dataset, order: Order | None = None, **options: Any) -> Loader:
    """14 batches of 8 rows, shuffled, 7 of web to 3 of code, but for what `options` say."""
    options = {"global_batch_size": 8, "total_steps": 14, "mix": MIX, "out": "int64"} | options
    return Loader(ds, order or Order.shuffled(), **options)
