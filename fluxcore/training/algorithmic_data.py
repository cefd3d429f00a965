"""Small tasks with an exact answer: arithmetic modulo p, and the parity of hidden bits."""

from enum import StrEnum, auto
from typing import NamedTuple

import torch
from torch import Tensor

from fluxcore.training.config import ConfigError


class Operation(StrEnum):
    """What is done to two numbers modulo p."""

    add = auto()
    subtract = auto()
    multiply = auto()


class Rows(NamedTuple):
    """Examples of a classification task."""

    inputs: Tensor
    """[n, k] int64, tokens below the task's vocabulary."""
    targets: Tensor
    """[n] int64, classes."""


def modular_rows(operation: Operation, modulus: int) -> Rows:
    """All pairs (a, b) of numbers below the modulus, and their sum, difference or product modulo it.

    Returns:
        Inputs [modulus^2, 2], a-major; targets within [0, modulus).
    """
    numbers = torch.arange(modulus)
    a, b = (each.flatten() for each in torch.meshgrid(numbers, numbers, indexing="ij"))
    results = {Operation.add: a + b, Operation.subtract: a - b, Operation.multiply: a * b}
    return Rows(torch.stack([a, b], dim=1), results[operation] % modulus)


def parity_rows(samples: int, parity_bits: int, noise_bits: int, seed: int) -> Rows:
    """Strings of random bits, no two alike, and whether an odd number of their first `parity_bits` is set.

    Args:
        samples: At most 2^(parity_bits + noise_bits).
        parity_bits: Bits that matter.
        noise_bits: Bits that do not; at most 62 bits in all.
        seed: Of the bits.
    Returns:
        Inputs [samples, parity_bits + noise_bits], 0 or 1; targets 0 or 1.
    """
    bits = parity_bits + noise_bits
    generator = torch.Generator().manual_seed(seed)
    codes = torch.empty(0, dtype=torch.int64)
    while len(codes) < samples:
        drawn = torch.randint(1 << bits, (samples,), generator=generator)
        codes = torch.unique(torch.cat([codes, drawn]))
    codes = codes[torch.randperm(len(codes), generator=generator)[:samples]]
    inputs = codes[:, None] >> torch.arange(bits) & 1
    return Rows(inputs, inputs[:, :parity_bits].sum(dim=1) % 2)


def split_rows(rows: Rows, train_fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Rows that train and rows that test, at random: floor(train_fraction * n) and the others.

    Raises:
        ConfigError: one of the two would be empty.
    """
    count = int(train_fraction * len(rows.targets))
    if not 0 < count < len(rows.targets):
        raise ConfigError(
            f"`train_fraction` = {train_fraction} of {len(rows.targets)} rows leaves {count} to train on and"
            f" {len(rows.targets) - count} to test on\n\nSet another train_fraction."
        )
    shuffled = torch.randperm(len(rows.targets), generator=torch.Generator().manual_seed(seed))
    train, test = (Rows(*(each[chosen] for each in rows)) for chosen in (shuffled[:count], shuffled[count:]))
    return train, test


def is_prime(n: int) -> bool:
    """Whether n is a prime, by trial division."""
    return n >= 2 and all(n % divisor for divisor in range(2, int(n**0.5) + 1))
