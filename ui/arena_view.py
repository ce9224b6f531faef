"""What the arena shows of a battle, as text and HTML. No Gradio here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from evals.battles import Choice
from ui.battle import Battle
from ui.exchange import Exchange

CHOICES: tuple[tuple[Choice, str], ...] = (
    ("a", "A is better"),
    ("tie", "A tie"),
    ("both_bad", "Both are bad"),
    ("b", "B is better"),
)
_CHOSEN = {
    "a": "You found A better.",
    "b": "You found B better.",
    "tie": "You found them equal.",
    "both_bad": "You found both bad.",
}
_AFTER_VOTE = {
    "named": "Names were known, so the vote is kept apart from the rating.",
    "leak": "A reply names its model, so the vote is kept apart from the rating.",
}

COPY_LINK = """(id) => {
  const link = location.origin + location.pathname + '?battle=' + encodeURIComponent(id);
  const button = document.querySelector('#after button:last-child');
  const say = (words) => { button.textContent = words; setTimeout(() => { button.textContent = 'Copy the link'; }, 2500); };
  // Without HTTPS a page may not write to the clipboard: the link goes to the address line instead.
  if (navigator.clipboard) navigator.clipboard.writeText(link).then(() => say('Copied'), () => history.replaceState(null, '', link));
  else { history.replaceState(null, '', link); say('It is in the address line'); }
}"""

CSS = """
#sides { gap: 20px; }
#sides > div { gap: 8px; }
.side-name { font-weight: 600; min-height: 1.5em; }
.chat { height: clamp(240px, calc(100vh - 620px), 560px) !important; }
.chat .placeholder * { color: var(--body-text-color-subdued); }
/* Gradio's own bin empties the pane but not the conversation behind it; the New battle button does both. */
.chat button[aria-label="Clear"], .chat button[title="Clear"] { display: none; }
.figures { display: flex; flex-wrap: wrap; gap: 2px 16px; min-height: 1.5em; font-size: var(--text-sm);
  color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.figures b { color: var(--body-text-color); font-weight: 600; }
.figures abbr { text-decoration: none; cursor: help; }
#votes { gap: 8px; }
#votes button { flex: 1 1 120px; }
#verdict { min-height: 1.5em; }
#setup { align-items: flex-end; gap: 12px; }
#composer { gap: 10px; }
#examples { gap: 6px; }
#examples button { flex: 0 0 auto; font-weight: 400; max-width: 100%; }
#ask { align-items: flex-end; gap: 10px; }
#ask #query { flex: 1 1 320px; }
#ask #actions { flex: 0 0 200px; gap: 8px; flex-wrap: nowrap; }
#ask #actions button { flex: 1 1 0; height: 42px; }
#after { gap: 8px; }
#after button { flex: 0 0 auto; }
#notice:not(:has(.notice)) { display: none; }
@media (max-width: 640px) {
  .chat { height: 200px !important; }
  #sides:has(.message) ~ #composer #examples { display: none; } /* its place is the replies' by then */
  #composer { position: sticky; bottom: 0; z-index: 20; padding: 10px 0; background: var(--body-background-fill);
    border-top: 1px solid var(--border-color-primary); }
  #examples { flex-wrap: nowrap; overflow-x: auto; scrollbar-width: none; }
  #votes button { flex: 1 1 44%; }
  #ask #query { flex: 1 1 100%; }
  #ask #actions { flex: 1 1 100%; }
}
"""


def to_chat(exchanges: Sequence[Exchange]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for exchange in exchanges:
        reply = exchange.reply
        if exchange.error:
            reply = f"{reply}\n\n⚠ {exchange.error}".strip()
        elif not reply:
            reply = "…" if exchange.running else "(no text)"
        # Gradio shows plain text as HTML, so a tag in it would be drawn, or fetch a picture from elsewhere.
        messages.append({"role": "user", "content": escape(exchange.query, quote=False)})
        messages.append({"role": "assistant", "content": escape(reply, quote=False)})
    return messages


_STATES = {
    "waiting": "Waiting for the replies to other visitors…",
    "opening": "Loading the model and what it may consult; the first time takes up to a minute…",
    "answering": "Answering…",
    "stopped": "Stopped.",
    "failed": "No reply. Your text is kept.",
}


def to_figures(exchanges: Sequence[Exchange], named: bool, similarity: float | None = None) -> str:
    """The line under a side, about its last reply; times would give a blind side away."""
    if not exchanges:
        return _line("")
    last = exchanges[-1]
    if last.state != "answered":
        return _line(_STATES.get(last.state, ""))
    if not named:
        return _line("Answered. Its figures come with its name, after your vote.")
    parts: list[str] = []
    if last.latency_s is not None:
        parts.append(_figure("Latency", f"{last.latency_s:.2f} s", "from sending to the end of the reply"))
    if last.ttft_s is not None:
        parts.append(_figure("TTFT", f"{last.ttft_s:.2f} s", "time to first token: from sending to the first text"))
    if last.tokens_per_s is not None and last.completion is not None:
        parts.append(_figure("Speed", f"{last.tokens_per_s:.0f} tokens/s", "tokens of the reply over its latency"))
        parts.append(f"<span>{last.completion.completion_tokens} tokens</span>")
    if last.completion is not None and last.completion.finish_reason == "length":
        parts.append("<span>cut at its longest</span>")
    if similarity is not None:
        words = "cosine of sentence embeddings with a good agent's reply to the same message"
        parts.append(_figure("Similarity to the reference", f"{similarity:.2f}", words))
    return _line("Answered." if not parts else "", *parts)


def _figure(name: str, value: str, meaning: str) -> str:
    return f'<span><abbr title="{escape(meaning)}">{name}</abbr> <b>{value}</b></span>'


def _line(words: str, *parts: str) -> str:
    return f'<div class="figures" role="status">{escape(words)}{"".join(parts)}</div>'


def to_notice(words: str) -> str:
    return f'<p class="notice" role="alert">{escape(words)}</p>' if words else ""


def to_verdict(battle: Battle) -> str:
    if battle.closed:
        return f'<p class="small">{escape(battle.closed)} {_CHOSEN.get(battle.choice or "", "").replace("You", "The visitor")}</p>'
    if battle.choice:
        more = _AFTER_VOTE.get(battle.why_not or "", "Thank you: the vote counts.")
        return f"<p><b>{_CHOSEN[battle.choice]}</b> {more} You may go on talking, or start a new battle.</p>"
    if battle.open_to_vote:
        line = " Or send the customer's next message first." if battle.next_line else ""
        return f'<p class="small">Which one would you rather have as your agent? One vote a battle.{line}</p>'
    return '<p class="small">You can vote as soon as both have answered.</p>'
