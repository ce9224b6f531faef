"""Which words of a text are not those of another one. Pure."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from html import escape

#: Words of each text that are compared; the rest stays unmarked. The time grows with their square.
MAX_WORDS = 300
_PIECES = re.compile(r"\s+|[$€£]?\w+(?:[.,:/@'’-]\w+)*%?|.", re.DOTALL)


def segments(text: str, reference: str) -> list[tuple[str, bool]]:
    """`text` in pieces that join to it again, each with whether it differs from `reference`.

    Words are compared in their order, without regard to case or to the signs between them.
    """
    pieces = _PIECES.findall(text)
    words = [k for k, piece in enumerate(pieces) if _is_word(piece)][:MAX_WORDS]
    mine = [pieces[k].casefold() for k in words]
    theirs = [piece.casefold() for piece in _PIECES.findall(reference) if _is_word(piece)][:MAX_WORDS]
    same: set[int] = set()
    for start, _, length in SequenceMatcher(None, mine, theirs, autojunk=False).get_matching_blocks():
        same.update(words[start : start + length])
    differs = set(words) - same
    result: list[tuple[str, bool]] = []
    for k, piece in enumerate(pieces):
        # What stands between two differing words belongs to the stretch.
        between = not _is_word(piece) and k - 1 in differs and k + 1 in differs
        _append(result, piece, k in differs or between)
    return result


def mark(text: str, reference: str) -> str:
    """`text` as HTML, escaped, the words that differ from `reference` in `<mark>`."""
    return "".join(
        f"<mark>{escape(piece)}</mark>" if differs else escape(piece) for piece, differs in segments(text, reference)
    )


def _is_word(piece: str) -> bool:
    return any(character.isalnum() for character in piece)


def _append(result: list[tuple[str, bool]], piece: str, differs: bool) -> None:
    if result and result[-1][1] is differs:
        result[-1] = (result[-1][0] + piece, differs)
    else:
        result.append((piece, differs))
