"""A data set of the Hugging Face hub as one source of text among others."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import ClassVar

from fluxcore.data.text import Corpus, hub
from fluxcore.training.config import ConfigFile


class AdapterName(StrEnum):
    """How the value of a column becomes text."""

    text = auto()
    dialogue = auto()
    translation = auto()


@dataclass(kw_only=True, slots=True)
class HubSource(ConfigFile):
    """Which rows of which data set, and how they become text."""

    name: ClassVar[str] = "text.hub"
    path: str
    """As in `datasets.load_dataset`: a name on the hub, or a local folder; also what the source is called."""
    config: str | None = None
    """The data set's own configuration, where it has several."""
    split: str = "train"
    """Or a slice, such as train[:1%]."""
    column: str = "text"
    """The column that holds the text."""
    adapter: AdapterName = AdapterName.text
    """text: the column itself; dialogue: its turns, joined by line breaks; translation: one `language` of it."""
    language: str | None = None
    """The side of a translation."""
    folder: str | None = None
    """Of the data set; only the files below it are read."""
    revision: str | None = None
    """Commit, tag or branch; refs/convert/parquet where the hub made Parquet of a data set with a loading script."""

    def __post_init__(self) -> None:
        self.coerce()
        if (self.language is None) != (self.adapter is not AdapterName.translation):
            raise ValueError(
                f"`text.hub`: `language` goes with adapter=translation alone, got {self.language!r} with"
                f" {self.adapter.name} for {self.path}"
            )

    def corpus(self, *, label_column: str | None = None, labels: Sequence[str] = ()) -> Corpus:
        """The text.

        Args:
            label_column: Column whose labels are the sources; None: the data set is one.
            labels: The labels to take; none given: all.
        Raises:
            ConnectionError: the hub cannot be reached, and the data set is not in the cache.
            ValueError: an unknown data set, split, column, label or language.
        """
        return hub(
            self.path,
            config=self.config,
            split=self.split,
            column=self.column,
            adapter=self.adapter.name,
            language=self.language,
            folder=self.folder,
            revision=self.revision,
            label_column=label_column,
            labels=labels,
        )
