"""`fluxcore info`: what a data set holds."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fluxcore.data import Dataset

QUANTILES = {"least": 0.0, "10%": 0.1, "median": 0.5, "90%": 0.9, "most": 1.0}


def info(
    data: Annotated[Path, typer.Argument(help="Folder of the data set.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Show what a data set holds: sizes, sources, and every column with its quantiles."""
    import fluxcore.data

    facts = facts_of(fluxcore.data.open(data))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        show(facts)


def facts_of(ds: "Dataset") -> dict[str, Any]:
    """Everything that `info` shows, as JSON values."""
    manifest = ds.manifest
    tokens = int(ds.column("valid_len").sum(dtype="uint64"))
    sorted_by = manifest.sorted_by
    return {
        "path": str(ds.path),
        "chunks": len(ds),
        "chunk_tokens": ds.chunk_tokens,
        "tokens": tokens,
        "padding_tokens": len(ds) * ds.chunk_tokens - tokens,
        "token_dtype": str(ds.token_dtype),
        "vocab_size": ds.vocab_size,
        "tokenizer": manifest.tokenizer,
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes + sum(sidecar.bytes for sidecar in shard.sidecars) for shard in manifest.shards),
        "sorted_by": None if sorted_by is None else {"column": sorted_by.column, "descending": sorted_by.descending},
        "uuid": ds.uuid,
        "generation": manifest.generation,
        "hash": manifest.hash,
        "parent": manifest.parent,
        "sources": [source_facts(ds, index) for index in range(len(ds.sources))],
        "columns": [column_facts(ds, name) for name in ds.columns],
    }


def source_facts(ds: "Dataset", index: int) -> dict[str, Any]:
    """What one source has a share in."""
    import numpy as np

    own = ds.column("source") == index
    return {
        "name": ds.sources[index],
        "documents": len(np.unique(ds.column("doc_id")[own])),
        "chunks": int(own.sum()),
        "tokens": int(ds.column("valid_len")[own].sum(dtype=np.uint64)),
    }


def column_facts(ds: "Dataset", name: str) -> dict[str, Any]:
    """Type, definition and quantiles of one column."""
    import numpy as np

    values = ds.column(name)
    added = ds.manifest.columns.get(name)
    # Each quantile is a value that occurs, so that whole numbers stay whole.
    found = np.quantile(values, list(QUANTILES.values()), method="lower").tolist() if len(values) else []
    return {
        "name": name,
        "dtype": str(values.dtype),
        "definition": None if added is None else added.definition,
        "quantiles": dict(zip(QUANTILES, found, strict=False)),
    }


def show(facts: dict[str, Any]) -> None:
    """Print the facts as tables."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    sorted_by = facts["sorted_by"]
    lines = {
        "data set": facts["path"],
        "chunks": f"{facts['chunks']:,} of {facts['chunk_tokens']:,} tokens",
        "tokens": f"{facts['tokens']:,}, and {facts['padding_tokens']:,} of padding",
        "ids": f"{facts['token_dtype']}, below {facts['vocab_size']:,}",
        "tokenizer": facts["tokenizer"] or "unknown",
        "files": f"{facts['shards']:,} shards, {facts['bytes']:,} bytes",
        "sorted by": f"{sorted_by['column']}{', descending' * sorted_by['descending']}" if sorted_by else "nothing",
        "identity": f"{facts['uuid']}, generation {facts['generation']}, manifest {facts['hash']}",
    }
    if facts["parent"]:
        lines["made from"] = f"manifest {facts['parent']}"
    overview = Table(show_header=False, box=None, padding=(0, 1))
    for label, value in lines.items():
        overview.add_row(Text(label, style="bold"), Text(value))
    console.print(overview)

    sources = Table("source", title="sources", title_justify="left")
    for label in ("documents", "chunks", "tokens"):
        sources.add_column(label, justify="right")
    for source in facts["sources"]:
        sources.add_row(Text(source["name"]), *(f"{source[key]:,}" for key in ("documents", "chunks", "tokens")))
    console.print(sources)

    columns = Table("column", "type", title="columns", title_justify="left")
    for label in QUANTILES:
        columns.add_column(label, justify="right")
    for column in facts["columns"]:
        found = [f"{column['quantiles'].get(label, ''):.6g}" if column["quantiles"] else "" for label in QUANTILES]
        columns.add_row(Text(column["name"]), column["dtype"], *found)
    console.print(columns)
    for column in facts["columns"]:
        if column["definition"]:
            console.print(Text(f"{column['name']}: {column['definition']}"))
