"""Documents from Hugging Face `datasets`, by a named adapter where a row is more than a string."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from fluxcore.data.text.corpus import Corpus, Document, digest
from fluxcore.errors import require

_CONTENT_KEYS = ("content", "value", "text")  # of a turn: chat templates, ShareGPT, others


def hub(
    name: str,
    *,
    config: str | None = None,
    split: str = "train",
    column: str = "text",
    adapter: str = "text",
    language: str | None = None,
    folder: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    label_column: str | None = None,
    labels: Sequence[str] = (),
) -> Corpus:
    """A data set of the Hugging Face hub, of the local cache, or a local folder that `datasets` can load.

    Args:
        name: as in `datasets.load_dataset`; it is the one source, unless labels are.
        config: the data set's own configuration, where it has several.
        split: "train", or a slice such as "train[:1%]".
        column: the column that holds the text.
        adapter: how a row becomes text: "text", the column itself; "dialogue", its turns (strings, or objects with
            `content`, `value` or `text`) joined by a line break; "translation", one `language` of an object.
        language: the key to pick, for "translation".
        folder: of the data set; only the files below it are read.
        revision: commit, tag or branch: a commit, so that the text stays the same; `refs/convert/parquet` where the hub
            made Parquet of a data set that has a loading script.
        streaming: read over the network without storing; every iteration downloads anew.
        label_column: column of class labels or strings, each of which is a source of its own.
        labels: with `label_column`: the labels to take; none given: all.
    Raises:
        ConnectionError: the hub cannot be reached and the data set is not in the cache.
        ValueError: unknown data set, split, column, label, adapter or language; a row that the adapter cannot read.
    """
    if adapter not in ADAPTERS:
        raise ValueError(f"`adapter` must be one of {', '.join(ADAPTERS)}, got {adapter!r}")
    if (language is None) != (adapter != "translation"):
        raise ValueError(f'`language` goes with adapter="translation" alone, got {language!r} with {adapter!r}')
    if labels and label_column is None:
        raise ValueError(f"`labels` goes with `label_column` alone, got {', '.join(labels)}")
    rows = _load(name, config, split=split, data_dir=folder, revision=revision, streaming=streaming)
    columns = rows.column_names
    for key, wanted in (("column", column), ("label_column", label_column)):
        if columns is not None and wanted is not None and wanted not in columns:
            raise ValueError(f"`{name}` has no column {wanted!r}\n\nPass `{key}`; there are: {', '.join(columns)}")
    source = _Source(name) if label_column is None else _Labels(name, rows, label_column, labels)
    # Rows that are streamed have no fingerprint: nothing tells whether they are still the same.
    seen = getattr(rows, "_fingerprint", None)
    told = (name, config, split, column, adapter, language, folder, revision, label_column, source.names)
    identity = None if seen is None else digest("hub", seen, *told)
    return _Hub(name, rows, column, ADAPTERS[adapter], language, source, identity)


class _Source:
    """The data set as a whole is one source."""

    def __init__(self, name: str) -> None:
        self.names: tuple[str, ...] = (name,)

    def of(self, row: Any) -> str | None:
        """A row's source; None where it is left out."""
        return self.names[0]


class _Labels(_Source):
    """Each label is a source."""

    def __init__(self, name: str, rows: Any, column: str, labels: Sequence[str]) -> None:
        feature: Any = (rows.features or {}).get(column)
        self.classes: list[str] | None = list(feature.names) if hasattr(feature, "names") else None
        self.column = column
        rows = rows.select_columns([column])
        known = self.classes or sorted({str(row[column]) for row in rows if row[column] is not None})
        unknown = [label for label in labels if label not in known]
        if unknown:
            raise ValueError(f"`labels` must be among the labels of `{name}`, {', '.join(known)}, got {unknown[0]!r}")
        self.names = tuple(labels or known)

    def of(self, row: Any) -> str | None:
        value = row[self.column]
        if value is None or value == -1:  # without a label
            return None
        label = str(value) if self.classes is None else self.classes[value]
        return label if label in self.names else None


class _Hub(Corpus):
    def __init__(
        self,
        name: str,
        rows: Any,
        column: str,
        adapter: "Adapter",
        language: str | None,
        source: _Source,
        identity: str | None,
    ) -> None:
        self.sources = source.names
        self._identity = identity
        self._name, self._rows, self._column = name, rows, column
        self._adapter, self._language, self._source = adapter, language, source

    @property
    def identity(self) -> str | None:
        """By the fingerprint that `datasets` gives the rows; None for rows that are streamed."""
        return self._identity

    def __iter__(self) -> Iterator[Document]:
        for number, row in enumerate(self._rows):
            source = self._source.of(row)
            if source is None:
                continue
            try:
                text = self._adapter(row[self._column], self._language)
            except (TypeError, KeyError) as error:
                raise ValueError(
                    f"row {number} of `{self._name}`: {error.args[0]}\n\nPass the `adapter` that fits the column"
                    f" {self._column!r}: {', '.join(ADAPTERS)}"
                ) from error
            yield Document(text, source, f"{self._name}:{number}")


def _load(name: str, config: str | None, **options: Any) -> Any:
    datasets = require("datasets", extra="train")
    try:
        return datasets.load_dataset(name, config, **options)
    except ConnectionError as error:
        raise ConnectionError(
            f"the Hugging Face hub could not be reached for `{name}`, and it is not in the cache: {error}"
            "\n\nCheck the network, or load it once where there is one and set HF_HOME to that cache;"
            " or use your own text instead."
        ) from error
    except (
        datasets.exceptions.DatasetsError,
        RuntimeError,
        ValueError,
    ) as error:  # RuntimeError: it has code of its own
        raise ValueError(f"the data set `{name}` could not be loaded: {error}") from error


def _as_text(value: Any, language: str | None) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"the text must be a string, got {type(value).__name__}")
    return value


def _as_dialogue(value: Any, language: str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"a dialogue must be a list of turns, got {type(value).__name__}")
    return "\n".join(_turn(turn) for turn in value)


def _turn(turn: Any) -> str:
    if isinstance(turn, str):
        return turn
    for key in _CONTENT_KEYS if isinstance(turn, Mapping) else ():
        if isinstance(turn.get(key), str):
            return str(turn[key])
    raise TypeError(f"a turn must be a string or have one of {', '.join(_CONTENT_KEYS)}, got {turn!r:.80}")


def _as_translation(value: Any, language: str | None) -> str:
    if not isinstance(value, Mapping):
        raise TypeError(f"a translation must be an object with a text a language, got {type(value).__name__}")
    if language not in value:
        raise KeyError(f"no language {language!r}, there are: {', '.join(map(str, value))}")
    return _as_text(value[language], None)


Adapter = Callable[[Any, str | None], str]
ADAPTERS: dict[str, Adapter] = {"text": _as_text, "dialogue": _as_dialogue, "translation": _as_translation}
"""How the value of a column becomes text."""
