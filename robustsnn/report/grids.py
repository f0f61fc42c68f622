"""Plain tables of texts, for the terminal and as Markdown, and the documents that they are made from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from robustsnn.errors import RobustSNNError


def load_document(path: Path, schema_version: int, is_ours: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The contents of a JSON file that a run left.

    Args:
        path: of the file.
        schema_version: the newest that can be read.
        is_ours: whether contents are of the kind that is expected.

    Raises:
        RobustSNNError: it cannot be read, is of another kind, or of a newer version.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RobustSNNError(f"{path} cannot be read ({error}); run the same command into this folder again") from None
    if not isinstance(document, dict) or not is_ours(document) or not isinstance(document.get("schema_version"), int):
        raise RobustSNNError(f"{path} was not written by robustsnn, or is damaged; run it into another folder")
    if document["schema_version"] > schema_version:
        raise RobustSNNError(
            f"{path} has schema version {document['schema_version']}; this robustsnn reads up to {schema_version}: upgrade it"
        )
    return document


def grid(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table for the terminal: the first column on the left, numbers on the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(headers[0], overflow="fold", min_width=10)
    for header in headers[1:]:
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def markdown_grid(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of the same table in Markdown."""
    return [markdown_row(row) for row in (headers, ["---"] * len(headers), *rows)]


def markdown_row(cells: Sequence[str]) -> str:
    """One line of a table in Markdown."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
