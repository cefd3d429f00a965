"""Errors that a caller can catch by type. All others are the built-in `TypeError`, `ValueError` and `OSError`."""

from importlib import import_module
from pathlib import Path
from types import ModuleType


class FluxcoreError(Exception):
    """Base of the package's own errors."""


class CorruptShardError(FluxcoreError):
    """Bytes on disk are not what was written; the message names shard, chunk and document where they are known.

    Attributes:
        shard: File name of the shard, sidecar or manifest.
        chunk: Id of the chunk within the data set, or None.
        document: Id of the chunk's document, or None.
    """

    def __init__(
        self, message: str, *, shard: str | None = None, chunk: int | None = None, document: int | None = None
    ) -> None:
        super().__init__(message)
        self.shard = shard
        self.chunk = chunk
        self.document = document


class CorruptCheckpointError(FluxcoreError):
    """A checkpoint is incomplete or its bytes are not what was written; the message names the file."""


class MalformedInputError(FluxcoreError):
    """A file of another project is not what its format says; the message names the file and the fault.

    Attributes:
        path: The file.
    """

    def __init__(self, message: str, *, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


class DatasetLockedError(FluxcoreError):
    """Another process is writing to the same folder."""


class MissingExtraError(FluxcoreError, ImportError):
    """An optional dependency is not installed; the message says which extra brings it."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`, or say which extra of fluxcore brings it.

    Raises:
        MissingExtraError: `module` is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"`{error.name}` is needed for this and is not installed"
            f"\n\nInstall it with: pip install 'fluxcore[{extra}]'"
        ) from error
