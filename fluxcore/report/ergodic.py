"""What runs on K ergodic components say: in-context cross entropy against K and position, from their JSONL alone."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.report.intervals import Interval, mean_interval
from fluxcore.report.runs import read_metrics

DESIGN, LABELS = "constant_total", "own"
"""Of a loss profile whose file name says nothing else."""
KEY = re.compile(r"(k|seed|chain|design|labels|component)=([^,]+)")
Profile = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ErgodicRun:
    """One run, or one file of losses made elsewhere."""

    k: int
    seed: int
    design: str
    labels: str
    profiles: Mapping[str, Profile]
    """Component -> mean loss of the tokens 1..T-1 over its windows, nats, [T - 1]."""
    total_tokens: int | None
    """Tokens trained on; None where a file does not say."""
    steps: int | None

    @property
    def xe(self) -> float:
        """Mean over positions and components, nats a token."""
        return float(np.mean([profile.mean() for profile in self.profiles.values()]))

    @property
    def share(self) -> int | None:
        """Tokens that K = 1 trains on under the same budget, in either design."""
        if self.total_tokens is None or self.design == DESIGN:
            return self.total_tokens
        return self.total_tokens // self.k

    def alone(self, component: str) -> tuple[str, int, int | None]:
        """What a component's run alone must have in common with this one: the component, the seed and the budget."""
        return component, self.seed, self.share


@dataclass(frozen=True, slots=True)
class Point:
    """All runs of one K under one design."""

    k: int
    runs: tuple[ErgodicRun, ...]
    xe: Interval
    """Over seeds; of each seed the mean over its runs."""
    rise: Interval | None
    """dXE(K): a component's cross entropy beyond that of its run alone with the same seed, over seeds."""
    rises: Mapping[int, float]
    """Seed -> dXE(K), the mean over runs and components."""
    profiles: Mapping[str, Profile]
    """Component -> mean of its losses against position; of components that have a run alone with the same seed, or of
    all where none has."""

    def profile(self) -> Profile:
        """Mean of the losses against position over the components."""
        mean: Profile = np.mean(list(self.profiles.values()), axis=0)
        return mean

    def by_component(self) -> dict[str, Profile]:
        """Component -> mean of its losses against position over all runs."""
        return mean_profiles((run, name) for run in self.runs for name in run.profiles)


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """dXE(K) = scale x (K - 1)^exponent, by least squares of the logarithms of the mean dXE."""

    scale: float
    exponent: float
    r_squared: float
    by_seed: Interval | None
    """The exponents of fits to each seed alone; None where a seed has a dXE that is not positive."""


@dataclass(frozen=True, slots=True)
class Series:
    """One design with one kind of labels, against K."""

    design: str
    labels: str
    points: tuple[Point, ...]

    @property
    def name(self) -> str:
        """As tables and legends say it."""
        return self.design.replace("_", " ") + (", shuffled labels" if self.labels == "shuffled" else "")

    def power_law(self) -> PowerLaw | None:
        """The fit; None with fewer than two K beyond 1, or where a mean dXE is not positive."""
        points = [point for point in self.points if point.k > 1 and point.rise is not None]
        found = fit({point.k: point.rise.mean for point in points if point.rise is not None})
        if found is None:
            return None
        seeds = set.intersection(*(set(point.rises) for point in points))
        fits = [fit({point.k: point.rises[seed] for point in points}) for seed in sorted(seeds)]
        exponents = [each[1] for each in fits if each is not None]
        whole = len(exponents) == len(fits) and exponents
        return PowerLaw(*found, by_seed=mean_interval(exponents) if whole else None)


def fit(rises: Mapping[int, float]) -> tuple[float, float, float] | None:
    """Scale, exponent and R^2 of ln dXE against ln (K - 1)."""
    if len(rises) < 2 or min(rises.values()) <= 0:
        return None
    x, y = np.log(np.array(list(rises), np.float64) - 1), np.log(list(rises.values()))
    exponent, offset = np.polyfit(x, y, 1)
    left, all_of_it = np.sum((y - offset - exponent * x) ** 2), np.sum((y - y.mean()) ** 2)
    return math.exp(offset), float(exponent), float(1 - left / all_of_it) if all_of_it > 0 else 1.0


def read_ergodic(folder: Path) -> tuple[list[ErgodicRun], int]:
    """The finished runs below a folder, and how many are not finished.

    Raises:
        FileNotFoundError: there is no finished run, and no loss profile.
        ValueError: a file of losses that is not [windows][positions] of finite numbers, or without k= or seed= in its
            name.
    """
    found, unfinished = [], 0
    for path in sorted(folder.rglob("metrics.jsonl")):
        run = read_run_lines(read_metrics(path))
        if run is None:
            unfinished += 1
        else:
            found.append(run)
    for path in sorted([*folder.glob("*.npy"), *folder.glob("*.json")]):
        if "=" in path.stem:
            found.append(read_profile(path))
    if not found:
        raise FileNotFoundError(2, "No finished run and no loss profile in", str(folder))
    return found, unfinished


def read_run_lines(rows: Sequence[dict[str, Any]]) -> ErgodicRun | None:
    """A run from its log; None while its last profiles are missing."""
    about = next((row for row in rows if row["split"] == "run"), None)
    last = {row["component"]: np.array(row["xe"], np.float64) for row in rows if row["split"] == "profile"}
    if about is None or set(about["subset"]) != set(last):
        return None
    return ErgodicRun(
        k=about["k"],
        seed=about["seed"],
        design=about["design"],
        labels=about["labels"],
        profiles={name: last[name] for name in about["subset"]},
        total_tokens=about["total_tokens"],
        steps=max(row["step"] for row in rows),
    )


def read_profile(path: Path) -> ErgodicRun:
    """A loss profile made elsewhere: `k=2,seed=0.npy`, and if they are there also chain, design, labels, component."""
    keys = dict(KEY.findall(path.stem))
    if not {"k", "seed"} <= keys.keys():
        raise ValueError(f"`{path}` must have k= and seed= in its name, such as k=2,seed=0{path.suffix}")
    if path.suffix == ".npy":
        values = np.load(path, allow_pickle=False)
    else:
        try:
            values = np.array(json.loads(path.read_text(encoding="utf-8")), np.float64)
        except (ValueError, TypeError) as error:
            raise ValueError(f"`{path}` must hold lists of equally many numbers: {error}") from error
    if values.ndim != 2 or values.dtype.kind != "f" or not values.size or not np.isfinite(values).all():
        raise ValueError(
            f"`{path}` must hold finite losses [windows][positions], got {values.dtype} {list(values.shape)}"
        )
    component = keys.get("component", f"chain {keys.get('chain', 0)}")
    return ErgodicRun(
        k=int(keys["k"]),
        seed=int(keys["seed"]),
        design=keys.get("design", DESIGN),
        labels=keys.get("labels", LABELS),
        profiles={component: values.astype(np.float64).mean(axis=0)},
        total_tokens=None,
        steps=None,
    )


def by_series(runs: Iterable[ErgodicRun]) -> list[Series]:
    """Runs by design and labels, the constant total and the own labels first.

    With K = 1 the designs are one: its runs count in each that has the same budget and none of them itself.
    """
    groups: dict[tuple[str, str], list[ErgodicRun]] = {}
    for run in runs:
        groups.setdefault((run.labels, run.design), []).append(run)
    order = sorted(groups, key=lambda key: (key[0] != LABELS, key[1] != DESIGN, key))
    found = []
    for labels, design in order:
        mine = groups[labels, design]
        others = [run for key in order if key[0] == labels and key[1] != design for run in groups[key] if run.k == 1]
        have = {run.alone(name) for run in mine if run.k == 1 for name in run.profiles}
        wanted = {run.alone(name) for run in mine for name in run.profiles} - have
        shared = [run for run in others if wanted.intersection(map(run.alone, run.profiles))]
        found.append(Series(design, labels, points([*mine, *shared])))
    return found


def points(runs: Sequence[ErgodicRun]) -> tuple[Point, ...]:
    """By K, ascending."""
    alone = {run.alone(name): profile.mean() for run in runs if run.k == 1 for name, profile in run.profiles.items()}
    found = []
    for k in sorted({run.k for run in runs}):
        mine = tuple(run for run in runs if run.k == k)
        xe = over_seeds((run.seed, run.xe) for run in mine)
        pairs = of_every_seed([(run, name) for run in mine for name in run.profiles if run.alone(name) in alone])
        rises = over_seeds((run.seed, run.profiles[name].mean() - alone[run.alone(name)]) for run, name in pairs)
        rise = mean_interval(rises.values()) if rises and k > 1 else None
        profiles = mean_profiles(pairs or [(run, name) for run in mine for name in run.profiles])
        found.append(Point(k, mine, mean_interval(xe.values()), rise, rises, profiles))
    return tuple(found)


def of_every_seed(pairs: list[tuple[ErgodicRun, str]]) -> list[tuple[ErgodicRun, str]]:
    """The pairs of components that every seed has, if there are any: seeds must not differ in what they average."""
    names: dict[int, set[str]] = {}
    for run, name in pairs:
        names.setdefault(run.seed, set()).add(name)
    common = set.intersection(*names.values()) if names else set()
    return [(run, name) for run, name in pairs if name in common] or pairs


def mean_profiles(chosen: Iterable[tuple[ErgodicRun, str]]) -> dict[str, Profile]:
    """Component -> mean of its losses against position over the runs that it is chosen of."""
    groups: dict[str, list[Profile]] = {}
    for run, name in chosen:
        groups.setdefault(name, []).append(run.profiles[name])
    return {name: np.mean(each, axis=0) for name, each in sorted(groups.items())}


def over_seeds(values: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Seed -> mean of its values: those of one seed share weights and order, so only seeds count as independent."""
    groups: dict[int, list[float]] = {}
    for seed, value in values:
        groups.setdefault(seed, []).append(value)
    return {seed: float(np.mean(each)) for seed, each in sorted(groups.items())}
