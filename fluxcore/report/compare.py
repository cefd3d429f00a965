"""What the runs say about the orders: means over seeds, tokens to reach a loss, and the verdict in words."""

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from fluxcore.report.runs import Curve, Run

BASELINE = "random"
# Of the way from the loss that every run reaches up to the first validation.
MILESTONE_SHARES = (0.5, 0.25, 0.1, 0.03, 0.0)


@dataclass(frozen=True, slots=True)
class OrderResult:
    """All runs of one order."""

    order: str
    runs: tuple[Run, ...]

    @property
    def final_loss(self) -> float:
        """Mean over the seeds of the last validation loss, nats a token."""
        return float(np.mean([run.final_loss for run in self.runs]))

    @property
    def final_loss_range(self) -> tuple[float, float]:
        """Least and greatest last validation loss over the seeds."""
        losses = [run.final_loss for run in self.runs]
        return min(losses), max(losses)

    @property
    def tokens(self) -> int:
        """Tokens that each run trained on (the most, where they are not alike)."""
        return max(run.total_tokens for run in self.runs)

    @property
    def tokens_per_second(self) -> float:
        """Mean over the seeds."""
        return float(np.mean([run.tokens_per_second for run in self.runs]))

    @property
    def seconds(self) -> float:
        """Mean over the seeds of the wall time of the training steps."""
        return float(np.mean([run.seconds for run in self.runs]))

    def tokens_to_reach(self, loss: float) -> float:
        """Mean over the seeds of the tokens at which validation first reaches `loss`; NaN if a run never does."""
        return float(np.mean([tokens_to_reach(run.validation, loss) for run in self.runs]))


def by_order(runs: list[Run]) -> list[OrderResult]:
    """Runs grouped by order: the baseline first, the others by name; seeds ascending."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.seed):
        groups[run.order].append(run)
    names = sorted(groups, key=lambda name: (name != BASELINE, name))
    return [OrderResult(name, tuple(groups[name])) for name in names]


def tokens_to_reach(curve: Curve, loss: float) -> float:
    """Tokens at which the curve first falls to `loss`, interpolated between two validations; NaN if it never does."""
    reached = np.flatnonzero(curve.loss <= loss)
    if reached.size == 0:
        return math.nan
    after = int(reached[0])
    if after == 0:
        return float(curve.tokens[0])
    high, low = curve.loss[after - 1], curve.loss[after]
    if math.isnan(high):
        return float(curve.tokens[after])
    share = (high - loss) / (high - low)
    return float(curve.tokens[after - 1] + share * (curve.tokens[after] - curve.tokens[after - 1]))


def common_loss(results: list[OrderResult]) -> float:
    """The lowest validation loss that every run of every order reaches; NaN if the loss of one never was a number."""
    return float(np.max([np.fmin.reduce(run.validation.loss) for result in results for run in result.runs]))


def milestone_losses(results: list[OrderResult]) -> list[float]:
    """Falling losses, closer together towards `common_loss`, at which the orders are compared."""
    last = common_loss(results)
    first = min(float(run.validation.loss[0]) for result in results for run in result.runs)
    return [last + share * (first - last) for share in MILESTONE_SHARES]


def verdict(results: list[OrderResult]) -> str:
    """One sentence a finding: who ends lower, by how much, and what that is worth."""
    baseline = next((result for result in results if result.order == BASELINE), None)
    others = [result for result in results if result.order != BASELINE]
    if baseline is None or not others:
        best = min(results, key=lambda result: math.inf if math.isnan(result.final_loss) else result.final_loss)
        return f"The lowest final validation loss is {best.final_loss:.4f} nats a token, in {best.order} order."
    sentences = [against_baseline(result, baseline) for result in others]
    seeds = {len(result.runs) for result in results}
    if seeds == {1}:
        sentences.append("This is from one seed each, so its error is not known: more seeds give it.")
    return " ".join(sentences)


def against_baseline(result: OrderResult, baseline: OrderResult) -> str:
    """How an order did against the baseline, seed by seed where both have the seed."""
    for one in (result, baseline):
        if math.isnan(one.final_loss):
            return f"The final validation loss of {one.order} order is not a number: its training diverged."
    difference = result.final_loss - baseline.final_loss
    compared = (
        "the same as" if difference == 0 else f"{abs(difference):.4f} {'lower' if difference < 0 else 'higher'} than"
    )
    sentence = (
        f"{result.order.capitalize()} order ends at a validation loss of {result.final_loss:.4f} nats a token, "
        f"{compared} {baseline.order} order ({baseline.final_loss:.4f})"
    )
    losses = {run.seed: run.final_loss for run in baseline.runs}
    pairs = [run.final_loss - losses[run.seed] for run in result.runs if run.seed in losses]
    if len(pairs) < 2:
        return f"{sentence}."
    error = float(np.std(pairs, ddof=1)) / math.sqrt(len(pairs))
    lower = sum(pair < 0 for pair in pairs)
    return f"{sentence}; it is lower with {lower} of {len(pairs)} seeds (standard error of the difference {error:.4f})."
