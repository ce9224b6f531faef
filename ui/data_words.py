"""One turn of the data as HTML: the conversation, reply and reference side by side, facts, policy, and why.

All that comes from the data is escaped here, and nowhere else on the way to the page.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from html import escape

from distiller.curate import BY_HAND, DROPPED_BY_HAND, IN_TEST
from distiller.edits import Edit
from distiller.tasks.facts import check_facts, contradicts
from ui.data_source import KEPT, REFERENCE, REPLACED, UNANSWERED, UNCHECKED, UNRECORDED, Data, Key, Row
from ui.data_view import DROPPED, RECHECK, group_of, learnt_text, status_of

SPLIT_WORDS = {"train": "training", "validation": "validation", "test": "test"}

#: What each status means, for somebody who has never trained a model.
MEANING = {
    KEPT: "The student learns this reply.",
    REPLACED: "The teacher's reply failed a check, so the student learns the reference in its place.",
    BY_HAND["replace"]: "The student learns the reply that was written by hand.",
    BY_HAND["keep"]: "The student learns this reply, because it was kept by hand.",
    DROPPED_BY_HAND: "The student does not learn this reply, because it was dropped by hand.",
    IN_TEST: "Its first question is in the test data too. Nothing that is tested may be learnt, so no edit brings it back.",
    RECHECK: "The hand edit was taken back. The checks decide again when a new run is trained.",
    UNCHECKED: "The teacher's reply is there; the checks come when all replies are.",
    UNANSWERED: "The teacher has not answered this question yet.",
    UNRECORDED: "The student does not learn this reply; the run's files do not say why.",
    REFERENCE: "A reply from the data itself. No teacher has answered here.",
    "empty": "The reply is empty or too short to learn from.",
    "cut by length": "The reply was cut off before its end: it reached the longest length allowed.",
    "refusal": "The reply refuses to help, where the reference does not.",
    "wrong language": "The reply is in another language than it should be.",
    "repetition loop": "The reply says the same thing over and over.",
    "leaked prompt or identity": "The reply gives away its instructions, or which model wrote it.",
    "placeholder text": "The reply has a gap to be filled in, such as [Your name].",
    "contradicted fact": "The reply says something that is wrong.",
    "missing fact": "The reply leaves out something that a correct reply must say.",
    "exact duplicate": "Another turn has the same question and the same reply.",
    "near duplicate": "Another turn has nearly the same question and reply.",
    "intent over its cap": "There are enough turns of this intent already; more would crowd out the others.",
}
_WORDS_TO_COMPARE = 1_500


def badge(status: str) -> str:
    """A status as a small label, with a colour for kept, dropped and not decided."""
    kind = {KEPT: "kept", DROPPED: "dropped"}.get(group_of(status), "open")
    return f'<span class="badge {kind}">{escape(status)}</span>'


def turn_html(data: Data, place: int, edits: dict[Key, Edit]) -> str:
    """The turn at `place`, within its conversation."""
    row = data.rows[place]
    edit = edits.get(row.key)
    status = status_of(row, edit)
    group = group_of(status)
    lead = "Dropped: " if group == DROPPED and status not in {DROPPED_BY_HAND, IN_TEST} else ""
    waits = ' <span class="badge open">edit waits</span>' if edit else ""
    first = place - row.turn
    conversation = range(first, first + row.turns)
    parts = [
        f'<div class="verdict">{badge(status)}{waits}<p>{lead}{escape(MEANING.get(status, status))}'
        f"{_wrong_words(row, edit)}</p></div>",
        '<ol class="talk" aria-label="The conversation">',
    ]
    for other in conversation:
        parts.append(_focus(data, row, edit) if other == place else _other(data, data.rows[other], edits))
    parts.append("</ol>")
    return f'<div class="turn">{"".join(parts)}</div>'


def _wrong_words(row: Row, edit: Edit | None) -> str:
    """What is wrong about a contradicted reply."""
    said = contradicts(row.reply or "", row.facts, row.forbidden) if row.status == "contradicted fact" else None
    if said is None or edit is not None:
        return ""
    if figure := re.fullmatch(r"(\S+) (\S+) for (\S+) \2", said):  # its units are stems, which no one wants to read
        return f" It says <b>{escape(figure[1])}</b> where <b>{escape(figure[3])}</b> is right."
    return f" It says: <b>{escape(said)}</b>."


def _other(data: Data, row: Row, edits: dict[Key, Edit]) -> str:
    """A turn around the chosen one, in short."""
    text = learnt_text(data, row, edits.get(row.key)) if data.has_replies else row.reference
    return (
        f'<li class="around"><p><b>Customer</b> {escape(row.query)}</p>'
        f"<p><b>{'Teacher' if data.has_replies else 'Reference'}</b> {escape(text or 'No reply yet.')}</p></li>"
    )


def _focus(data: Data, row: Row, edit: Edit | None) -> str:
    parts = [f'<li class="focus" aria-current="true"><p class="query"><b>Customer</b> {escape(row.query)}</p>']
    chosen = edit or data.applied.get(row.key)
    reply = learnt_text(data, row, edit) if chosen and chosen.action == "replace" else row.reply
    edited = reply != row.reply
    if data.has_replies:
        left, right = _marked(reply, row.reference) if reply and row.reference else _plain(reply, row.reference)
        title = "Written by hand" if edited else "Teacher's reply"
        parts.append('<div class="pair">')
        parts.append(_pane(title, left or ("No reply yet." if reply is None else "(no text)")))
        parts.append(_pane("Reference", right or "The data has no reference here."))
        parts.append("</div>")
        if edited:
            parts.append(
                f'<details><summary>What the teacher said</summary><p class="text">{escape(row.reply or "")}</p></details>'
            )
    else:
        parts.append(_pane("Reference", escape(row.reference or "The data has no reference here.")))
    parts.append(_facts(row, reply if data.has_replies else None))
    if row.policy:
        lines = "".join(
            f"<li>{escape(line.removeprefix('- '))}</li>" for line in row.policy.splitlines() if line.strip()
        )
        parts.append(f"<section><h4>Policy lines that the teacher was shown</h4><ul>{lines}</ul></section>")
    return "".join(parts) + "</li>"


def _pane(title: str, inner: str) -> str:
    return f'<section><h4>{title}</h4><p class="text">{inner}</p></section>'


def _facts(row: Row, reply: str | None) -> str:
    """What a correct reply must say, and whether `reply` does; None: there is no reply to look at."""
    if not row.facts and not row.forbidden:
        return ""
    missing = set(check_facts(reply, row.facts).missing) if reply is not None else set()
    said = check_facts(reply, (), row.forbidden).forbidden if reply is not None else ()
    items = []
    for fact in row.facts:
        also = f' <span class="also">or: {escape(", ".join(fact[1:4]))}</span>' if fact[1:] else ""
        mark = ""
        if reply is not None:
            mark = '<b class="no">✗ missing</b> ' if fact[0] in missing else '<b class="yes">✓ said</b> '
        items.append(f"<li>{mark}{escape(fact[0])}{also}</li>")
    items += [f'<li><b class="no">✗ wrong</b> {escape(text)}</li>' for text in said]
    return (
        f'<section><h4>What a correct reply must say</h4><ul class="facts">{"".join(items)}</ul></section>'
        if items
        else ""
    )


def _plain(*texts: str | None) -> tuple[str, ...]:
    return tuple(escape(text or "") for text in texts)


def _marked(left: str, right: str) -> tuple[str, str]:
    """Both texts escaped, the words that only one of them has in <mark>."""
    a, b = (re.findall(r"\s+|[^\s]+", text) for text in (left, right))
    words = ([k for k, t in enumerate(side) if not t.isspace()] for side in (a, b))
    a_words, b_words = words
    if max(len(a_words), len(b_words)) > _WORDS_TO_COMPARE:  # comparing takes the square of it
        return escape(left), escape(right)
    matcher = difflib.SequenceMatcher(
        None, [_bare(a[k]) for k in a_words], [_bare(b[k]) for k in b_words], autojunk=False
    )
    only_a, only_b = set(a_words), set(b_words)
    for block in matcher.get_matching_blocks():
        only_a -= set(a_words[block.a : block.a + block.size])
        only_b -= set(b_words[block.b : block.b + block.size])
    return "".join(_runs(a, only_a)), "".join(_runs(b, only_b))


def _bare(word: str) -> str:
    return word.lower().strip(".,;:!?\"'()") or word


def _runs(tokens: Sequence[str], marked: set[int]) -> Iterator[str]:
    """Marked words that follow each other share one mark, the space between them included."""
    k = 0
    while k < len(tokens):
        if k not in marked:
            yield escape(tokens[k])
            k += 1
            continue
        end = k
        while end + 2 in marked and tokens[end + 1].isspace():
            end += 2
        yield f"<mark>{escape(''.join(tokens[k : end + 1]))}</mark>"
        k = end + 1
