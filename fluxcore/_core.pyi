"""Types of the C++ extension. Private: use the functions of the package."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def cpu_isa() -> str: ...
def cpu_isas() -> list[str]: ...

class Order:
    @property
    def epoch_size(self) -> int: ...
    def chunks_at(self, position: int, count: int) -> NDArray[np.uint64]: ...
    def rest_of_pass(self, position: int) -> NDArray[np.uint64]: ...

class RankedOrder(Order):
    def __init__(
        self, ranking: NDArray[np.uint64] | None, ranks: int, segments: list[tuple[int, int, str, int]], seed: int
    ) -> None: ...

class PacedOrder(Order):
    def __init__(
        self,
        ranking: NDArray[np.uint64] | None,
        ranks: int,
        pools: list[tuple[int, int]],
        scattered: bool,
        seed: int,
    ) -> None: ...
    def unseen(self, end: int) -> NDArray[np.uint64]: ...

class ChainOrder(Order):
    def __init__(self, links: list[tuple[int, int, Order]], epoch_size: int) -> None: ...

class MixedOrder(Order):
    period: int
    def __init__(self, orders: list[Order], begin: int, cursors: list[int], weights: list[int]) -> None: ...
    def with_weights(self, begin: int, weights: list[int]) -> MixedOrder: ...
    def places_at(self, position: int, count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]: ...
    def cursors_at(self, position: int) -> list[int]: ...

def derive_key(key: int, value: int) -> int: ...
def radix_argsort(keys: NDArray[np.uint64], permutation: NDArray[np.uint64]) -> None: ...
def crc32c(data: bytes) -> int: ...
def publish_file(path: str | os.PathLike[str], data: bytes) -> None: ...
def fault_of_column_name(name: str) -> str: ...

class ShardWriter:
    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        kind: str,
        dtype: str,
        chunk_tokens: int,
        vocab_size: int,
        uuid: bytes,
        shard_number: int,
        tokenizer: bytes,
        parent: bytes,
        columns: list[tuple[str, str]],
        sort_column: str | None,
        sort_descending: bool,
        token_mask: bool,
    ) -> None: ...
    def append(
        self, count: int, tokens: NDArray[Any] | None, mask: NDArray[Any] | None, columns: list[NDArray[Any]]
    ) -> None: ...
    def finish(self) -> tuple[int, int, bytes]: ...
    def discard(self) -> None: ...
    @property
    def chunk_count(self) -> int: ...

class ShardSet:
    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        uuid: bytes,
        dtype: str,
        chunk_tokens: int,
        vocab_size: int,
        tokenizer: bytes,
        sort_column: str,
        sort_descending: bool,
        shards: list[tuple[str, int, int, bytes]],
        map_limit: int | None = None,
    ) -> None: ...
    @property
    def chunk_count(self) -> int: ...
    @property
    def chunk_tokens(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def shard_count(self) -> int: ...
    def base(self, shard: int) -> int: ...
    def chunk(self, chunk_id: int, verify: bool) -> NDArray[Any]: ...
    def mask(self, chunk_id: int, verify: bool) -> NDArray[Any] | None: ...
    def gather(
        self, ids: NDArray[Any], *, out: str, targets: bool, verify: bool
    ) -> tuple[NDArray[Any], NDArray[Any] | None]: ...
    def describe(self, ids: NDArray[Any]) -> NDArray[np.int64]: ...
    def column_names(self, shard: int) -> list[str]: ...
    def column(self, shard: int, name: str) -> NDArray[Any]: ...
    def verify_shard(self, shard: int) -> None: ...

class Sidecar:
    def __init__(self, path: str | os.PathLike[str]) -> None: ...
    @property
    def is_sidecar(self) -> bool: ...
    @property
    def uuid(self) -> bytes: ...
    @property
    def shard_number(self) -> int: ...
    @property
    def parent(self) -> bytes: ...
    @property
    def root(self) -> bytes: ...
    @property
    def chunk_count(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def column_names(self) -> list[str]: ...
    def column(self, name: str) -> NDArray[Any]: ...
    def verify(self) -> None: ...

class BatchMemory:
    def __init__(self, rows: int, row_length: int, dtype: str, keep: int) -> None: ...
    def take(self, rows: int) -> NDArray[Any]: ...

class Loader:
    def __init__(
        self,
        shards: ShardSet,
        order: Order,
        *,
        verify: bool,
        threads: int,
        in_work: int,
        sight: int,
        memory: BatchMemory,
        targets: bool,
        wrap: Callable[[NDArray[Any]], object],
        allocate: Callable[[int], tuple[object, int, object, int]] | None,
        nothing: Any,
        drop_behind: bool,
    ) -> None: ...
    def plan(self, batches: Sequence[tuple[int, int]]) -> None: ...
    def next(self) -> tuple[NDArray[np.int64], Any, Any]: ...

def softmax_row_grain(rows: int, classes: int, threads: int) -> int: ...
def softmax_stats_fwd(
    x: int,
    dtype: str,
    rows: int,
    classes: int,
    row_stride: int,
    target: int,
    outputs: int,
    top_k: int,
    temperature: float,
    softcap: float,
    stats: int,
    argmax: int,
    state: int,
    top_index: int,
    threads: int,
    isa: str = "",
) -> None: ...
def softmax_stats_bwd(
    x: int,
    dtype: str,
    rows: int,
    classes: int,
    row_stride: int,
    target: int,
    outputs: int,
    top_k: int,
    temperature: float,
    softcap: float,
    grads: int,
    argmax: int,
    state: int,
    top_index: int,
    dx: int,
    threads: int,
    isa: str = "",
) -> None: ...

class CrossEntropyCall:
    def __init__(
        self,
        x: int,
        dtype: str,
        rows: int,
        classes: int,
        row_stride: int,
        target: int,
        target_stride: int,
        weight: int,
        token_weight: int,
        penalty_mask: int,
        link: str,
        reduction: str,
        ignore_index: int,
        label_smoothing: float,
        lse_square_scale: float,
        penalty: str,
        penalty_coef: float,
        top_k: int,
        outputs: int,
        temperature: float,
        softcap: float,
        threads: int,
        isa: str = "",
    ) -> None: ...

def cross_entropy_fwd(
    call: CrossEntropyCall,
    loss: int,
    stats: int,
    argmax: int,
    state: int,
    top_index: int,
    totals: int,
    gradient: int,
) -> None: ...
def cross_entropy_bwd(
    call: CrossEntropyCall,
    upstream: int,
    upstream_stride: int,
    argmax: int,
    state: int,
    top_index: int,
    totals: int,
    gradient: int,
) -> None: ...
def scale_(gradient: int, dtype: str, count: int, scale: int, threads: int) -> None: ...

PruneColumns = tuple[list[int], list[str], list[int], list[int], list[int], list[int], list[int]]
"""Weights, dtypes, masks, gradients, elements, offsets and random keys of tensors."""

def select_smallest(
    tensors: PruneColumns,
    kind: str,
    step: int,
    per_tensor: bool,
    fraction: float,
    k: list[int],
    ties: bool,
    cuts: int,
    threads: int,
    isa: str = "",
) -> None: ...
def prune_apply(
    tensors: PruneColumns,
    states: list[tuple[int, int, int]],
    drop: int,
    regrow: int,
    regrow_kind: str,
    step: int,
    noise_std: list[float],
    keep: int,
    group: int,
    counts: int,
    threads: int,
    isa: str = "",
) -> None: ...
def orthogonalize(tensors: list[tuple[int, int, int]], threads: int, isa: str = "") -> None: ...
def ortho_adamw(
    tensors: list[tuple[int, int, int, int, int, float, float]],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    project_update: bool,
    threads: int,
    isa: str = "",
) -> None: ...
def gae(
    rewards: int,
    values: int,
    dtype: str,
    dones: int,
    dones_are_bytes: bool,
    bootstrap: int,
    mask: int,
    ratio: int,
    outer: int,
    steps: int,
    inner: int,
    gamma: float,
    lam: float,
    rho_clip: float,
    c_clip: float,
    advantages: int,
    returns: int,
    threads: int,
    isa: str = "",
) -> None: ...
def kl_div_fwd(
    x: int,
    ref: int,
    dtype: str,
    rows: int,
    classes: int,
    row_stride: int,
    ref_stride: int,
    token_weight: int,
    direction: str,
    beta: float,
    reduction: str,
    temperature: float,
    loss: int,
    state: int,
    totals: int,
    threads: int,
    isa: str = "",
) -> None: ...
def kl_div_bwd(
    upstream: int,
    upstream_stride: int,
    x: int,
    ref: int,
    dtype: str,
    rows: int,
    classes: int,
    row_stride: int,
    ref_stride: int,
    token_weight: int,
    state: int,
    totals: int,
    direction: str,
    beta: float,
    reduction: str,
    temperature: float,
    gradient: int,
    threads: int,
    isa: str = "",
) -> None: ...
