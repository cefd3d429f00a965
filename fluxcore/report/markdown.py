"""Tables of Markdown, and pages of which a report writes a part."""

from collections.abc import Iterable, Sequence
from pathlib import Path

BEGIN, END = "<!-- begin: written by the report -->", "<!-- end: written by the report -->"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]], *, text_columns: int = 1) -> str:
    """A table whose first `text_columns` are aligned to the left, the others, numbers, to the right."""
    rule = ["---"] * text_columns + ["---:"] * (len(head) - text_columns)
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|"]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows])


def rewrite_page(page: Path, text: str) -> None:
    """Replace what stands between the two marks of a page.

    Raises:
        FileNotFoundError: there is no such page.
        ValueError: it lacks a mark.
    """
    old = page.read_text(encoding="utf-8")
    if old.count(BEGIN) != 1 or old.count(END) != 1 or old.index(END) < old.index(BEGIN):
        raise ValueError(f"`page` must have one line {BEGIN} and after it one {END}, and {page} has not")
    before, rest = old.split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
