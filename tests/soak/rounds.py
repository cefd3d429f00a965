"""All targets, and how the time is shared out."""

from collections.abc import Iterator, Sequence

from soak.data_set_files import Damaged, Forged, ForgedManifest
from soak.foreign_files import Foreign
from soak.killed import KilledColumn, KilledSort, KilledWriter
from soak.killed_commands import KilledConvert, KilledExport, KilledScore, KilledTokenise, KilledVerify
from soak.loading import Resumed
from soak.processes import Tally, run_target
from soak.target import Target

TARGETS: tuple[type[Target], ...] = (
    Damaged, Forged, ForgedManifest, Foreign, Resumed, KilledWriter, KilledSort, KilledColumn,
    KilledTokenise, KilledConvert, KilledExport, KilledScore, KilledVerify,
)  # fmt: skip


def run_rounds(
    seconds: float, seed: int, *, only: Sequence[str] | None = None, attempts: int | None = None
) -> Iterator[Tally]:
    """Every target for its share of the time, or for so many attempts.

    Args:
        seconds: for all of them together.
        seed: of the first attempt of each; the next has the next.
        only: names of targets; all without it.
        attempts: of each target; None: by time.
    """
    chosen = [target for target in TARGETS if only is None or target.name in only]
    for target in chosen:
        yield run_target(target, seconds / len(chosen), seed, attempts)
