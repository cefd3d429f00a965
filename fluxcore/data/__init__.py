"""Token shards: write them, open them, and stream them in an exact order."""

from fluxcore.data.autocurriculum import Autocurriculum, Difficulty
from fluxcore.data.batch import Batch, BatchMeta, Explanation
from fluxcore.data.dataset import Dataset, open  # noqa: A004
from fluxcore.data.interchange import ConvertReport, ExportReport, convert, export
from fluxcore.data.loader import Loader
from fluxcore.data.manifest import ColumnInfo, Manifest, ShardInfo, SidecarInfo, SortKey
from fluxcore.data.order import Order
from fluxcore.data.selection import Filter
from fluxcore.data.sort import SortResult, sort, sort_disk_bytes, sort_index
from fluxcore.data.sort_job import SortJob
from fluxcore.data.verify import VerifyReport
from fluxcore.data.writer import ShardWriter

__all__ = [
    "Autocurriculum",
    "Batch",
    "BatchMeta",
    "ColumnInfo",
    "ConvertReport",
    "Dataset",
    "Difficulty",
    "Explanation",
    "ExportReport",
    "Filter",
    "Loader",
    "Manifest",
    "Order",
    "ShardInfo",
    "ShardWriter",
    "SidecarInfo",
    "SortJob",
    "SortKey",
    "SortResult",
    "VerifyReport",
    "convert",
    "export",
    "open",
    "sort",
    "sort_disk_bytes",
    "sort_index",
]
