"""Rows of keys and values, printed as a table for a person or as JSON for a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def print_table(rows: Sequence[dict[str, Any]], *, as_json: bool, empty: str, title: str | None = None) -> None:
    if as_json:
        print(json.dumps(list(rows), ensure_ascii=False, indent=2))
        return
    if not rows:
        print(empty)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, header_style="bold")
    for key, value in rows[0].items():
        table.add_column(key, justify="right" if isinstance(value, int | float) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row.values()))
    console = Console()
    # Piped to a file there is no width to fit: a wide table is better than a folded one.
    console.print(table) if console.is_terminal else Console(width=200).print(table)
