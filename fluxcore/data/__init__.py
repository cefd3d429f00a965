"""Token shards: write them, open them, and stream them in an exact order."""

from fluxcore.data.dataset import Dataset, open  # noqa: A004
from fluxcore.data.manifest import ColumnInfo, Manifest, ShardInfo, SidecarInfo, SortKey
from fluxcore.data.verify import VerifyReport
from fluxcore.data.writer import ShardWriter

__all__ = [
    "ColumnInfo",
    "Dataset",
    "Manifest",
    "ShardInfo",
    "ShardWriter",
    "SidecarInfo",
    "SortKey",
    "VerifyReport",
    "open",
]
