"""What several commands of `python -m evals` ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from distiller.schema import BadLine, Conversation

QueueOption = Annotated[bool, typer.Option("--queue", help="Wait until other queued work has ended.")]
RunOption = Annotated[str | None, typer.Option("--run", help="A run: its id, the start of it, or latest.")]


def chosen_conversations(data: Path, map_: str, skip_bad: bool, limit: int) -> list[Conversation]:
    """What is replayed; lines that are left out are named."""
    from distiller.forms import parse_column_map
    from distiller.sampling import stratified
    from distiller.schema import read_conversations

    bad: list[BadLine] | None = [] if skip_bad else None
    found = read_conversations(data, column_map=parse_column_map(map_), bad=bad)
    for line in bad or []:
        typer.echo(f"left out: {line}", err=True)
    return stratified(found, limit, 0)
