"""Who takes part."""

from benchmarks.data.contender import Contender
from benchmarks.data.fluxcore_loader import Fluxcore
from benchmarks.data.hf_datasets import Arrow
from benchmarks.data.lit import Lit
from benchmarks.data.mosaic import Mosaic
from benchmarks.data.numpy_files import FancyIndex, InOrder, MapLoader


def contenders() -> list[Contender]:
    """All of them, ours first."""
    return [
        Fluxcore("fluxcore"),
        Fluxcore("fluxcore, tokens alone", targets=False),
        Fluxcore("fluxcore, no threads, tokens alone", threads=0, targets=False),
        Fluxcore("fluxcore, no CRC", verify="never"),
        Fluxcore("fluxcore, no CRC, tokens alone", verify="never", targets=False),
        Fluxcore("fluxcore, no look-ahead", look_ahead=0),
        InOrder(),
        FancyIndex(),
        MapLoader("numpy memmap + DataLoader", tuned=False),
        MapLoader("numpy memmap + DataLoader, tuned", tuned=True),
        Arrow("datasets", tuned=False),
        Arrow("datasets, tuned", tuned=True),
        Mosaic("mosaicml-streaming", tuned=False),
        Mosaic("mosaicml-streaming, tuned", tuned=True),
        Lit("litdata", tuned=False),
        Lit("litdata, tuned", tuned=True),
    ]
