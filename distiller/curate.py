"""Stage 1, second half: what of the teacher's replies is worth learning.

Each filter looks at one reply and names its reason, or says nothing. Then exact and near duplicates
go, intents are capped, and a conversation that stands in the test set is removed whole. What is
dropped is kept in `dropped.jsonl` with its reason. A dropped reply stays in the history of later
turns but is not trained on (`metadata.keep[t]` is False). Hand edits are laid over all that last.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from distiller.edits import Edit, Place
from distiller.job import Curation
from distiller.schema import Conversation, Message, Turn
from distiller.tasks.facts import check_facts, contradicts

_REFUSAL = re.compile(
    r"\b(as an ai|as a language model|i(?:'m| am) (?:just |only )?an? (?:ai|language model)|"
    r"i (?:cannot|can't|am unable to|'m unable to) (?:assist|help|answer|fulfil?l|provide (?:any )?(?:information|assistance))|"
    r"i(?:'m| am) not able to (?:assist|help|answer)|i do(?:n't| not) have (?:access to|information about) (?:any|your|real))",
    re.IGNORECASE,
)
_LEAK = re.compile(
    r"(smollm|hugging ?face|openai|chatgpt|gpt-4|deepseek|anthropic|claude|llama|alibaba|qwen|mistral|"
    r"system prompt|my instructions|<\|?im_(?:start|end)|</?think|^policy:|\bthe policy (?:text|above|section)|##)",
    re.IGNORECASE | re.MULTILINE,
)
_PLACEHOLDER = re.compile(
    r"\{\{.*?\}\}|\[(?:your|insert|order|customer|name|date|company|product|number|link|email|phone)[^\]]*\]|<(?:your|insert|name|order)[^>]*>|\bX{3,}\b|lorem ipsum",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Candidate:
    """One reply of the teacher with what it is judged by."""

    turn: Turn  # of the synthetic conversation: its reference is the teacher's reply
    gold: Turn  # of the same turn in the data: its facts and its reference
    finish_reason: str
    rules: Curation

    @property
    def reply(self) -> str:
        return self.turn.reference or ""


def _empty(c: Candidate) -> bool:
    return len(c.reply.split()) < c.rules.min_words


def _cut(c: Candidate) -> bool:
    return c.finish_reason == "length"


def _refusal(c: Candidate) -> bool:
    return bool(_REFUSAL.search(c.reply)) and not _REFUSAL.search(c.gold.reference or "")


def _wrong_language(c: Candidate) -> bool:
    if not c.rules.language or len(c.reply.split()) < 8:  # too short to tell
        return False
    import py3langid

    language, _ = py3langid.classify(c.reply)
    return language != c.rules.language


def _repetition(c: Candidate) -> bool:
    """A sentence three times, or one run of four words five times: the reply is caught in a loop."""
    sentences = [s.strip().lower() for s in re.split(r"[.!?\n]+", c.reply) if len(s.split()) > 2]
    words = c.reply.lower().split()
    runs = Counter(tuple(words[i : i + 4]) for i in range(len(words) - 3))
    return max(Counter(sentences).values(), default=0) >= 3 or max(runs.values(), default=0) >= 5


def _leak(c: Candidate) -> bool:
    return bool(_LEAK.search(c.reply)) and not _LEAK.search(c.gold.reference or "")


def _placeholder(c: Candidate) -> bool:
    return bool(_PLACEHOLDER.search(c.reply))


def _contradicted(c: Candidate) -> bool:
    return c.rules.drop_contradictions and contradicts(c.reply, c.gold.facts, c.gold.forbidden) is not None


def _missing_fact(c: Candidate) -> bool:
    return c.rules.require_facts and bool(check_facts(c.reply, c.gold.facts).missing)


#: In the order in which they are asked; the first one that holds is the reason.
FILTERS: dict[str, Callable[[Candidate], bool]] = {
    "empty": _empty,
    "cut by length": _cut,
    "refusal": _refusal,
    "wrong language": _wrong_language,
    "repetition loop": _repetition,
    "leaked prompt or identity": _leak,
    "placeholder text": _placeholder,
    "contradicted fact": _contradicted,
    "missing fact": _missing_fact,
}


#: A conversation of the test set is never learnt, whatever an edit says.
IN_TEST = "in the test set"
DROPPED_BY_HAND = "dropped by hand"
#: What `summary` calls a reply that an edit lets through, by the edit's action.
BY_HAND = {"replace": "edited by hand", "keep": "kept by hand"}


@dataclass
class Curated:
    conversations: list[Conversation]
    dropped: list[dict[str, Any]]
    #: reason → number of turns; "kept", those of BY_HAND and "replaced by reference" among them.
    summary: dict[str, int]


def drop_reason(candidate: Candidate) -> str | None:
    return next((name for name, holds in FILTERS.items() if holds(candidate)), None)


def curate(
    synthetic: Sequence[Conversation],
    gold: Sequence[Conversation],
    test: Sequence[Conversation],
    rules: Curation,
    *,
    deduplicate: bool = True,
    edits: Mapping[Place, Edit] | None = None,
) -> Curated:
    """Training conversations out of synthetic ones. `deduplicate` False (validation) only filters replies.

    `edits`: by conversation and turn, as `edits.by_turn` gives them.
    """
    gold_turns = {conversation.id: conversation.turns() for conversation in gold}
    test_queries = {_plain(turn.query) for conversation in test for turn in conversation.turns()[:1]}
    reasons: dict[Place, str] = {}
    for conversation in synthetic:
        turns = conversation.turns()
        if _plain(turns[0].query) in test_queries:
            reasons |= {(conversation.id, turn.index): IN_TEST for turn in turns}
            continue
        endings = [c.get("finish_reason", "stop") for c in conversation.metadata.get("completions", [])]
        for turn in turns:
            ending = endings[turn.index] if turn.index < len(endings) else "stop"
            known = gold_turns[conversation.id][turn.index]
            if reason := drop_reason(Candidate(turn, known, ending, rules)):
                reasons[conversation.id, turn.index] = reason
    if deduplicate:
        _mark_duplicates(synthetic, reasons, rules)
        _mark_over_cap(synthetic, reasons, rules)
    # A reference that quotes lines which were not found for the question would teach to invent.
    unusable = {(c.id, t) for c in gold for t, keep in enumerate(c.metadata.get("keep") or []) if not keep}
    counted = {place: edit for place, edit in (edits or {}).items() if reasons.get(place) != IN_TEST}
    for place, edit in counted.items():
        if edit.action == "drop":
            reasons[place] = DROPPED_BY_HAND
        else:
            reasons.pop(place, None)
    return _assemble(synthetic, gold_turns, reasons, unusable, rules, counted)


def _kept(synthetic: Sequence[Conversation], reasons: dict[Place, str]) -> list[tuple[Conversation, Turn]]:
    return [(c, t) for c in synthetic for t in c.turns() if (c.id, t.index) not in reasons]


def _mark_duplicates(synthetic: Sequence[Conversation], reasons: dict[Place, str], rules: Curation) -> None:
    seen: set[str] = set()
    for conversation, turn in _kept(synthetic, reasons):
        key = _plain(turn.query) + "\n" + _plain(turn.reference or "")
        if key in seen:
            reasons[conversation.id, turn.index] = "exact duplicate"
        seen.add(key)
    rest = _kept(synthetic, reasons)
    if rules.near_duplicate_similarity >= 1 or not rest:
        return
    from distiller.embedding import load_encoder

    vectors = load_encoder().encode([f"{turn.query}\n{turn.reference}" for _, turn in rest])
    for start in range(0, len(rest), 1024):
        near = vectors[start : start + 1024] @ vectors.T >= rules.near_duplicate_similarity
        for offset, row in enumerate(near):
            k = start + offset
            if any((rest[j][0].id, rest[j][1].index) not in reasons for j in row[:k].nonzero()[0]):
                reasons[rest[k][0].id, rest[k][1].index] = "near duplicate"


def _mark_over_cap(synthetic: Sequence[Conversation], reasons: dict[Place, str], rules: Curation) -> None:
    rest = [(c, t) for c, t in _kept(synthetic, reasons) if c.intent]
    if len({c.intent for c, _ in rest}) * rules.max_intent_share <= 1:
        return  # with so few intents the cap could not be kept
    cap = max(1, int(rules.max_intent_share * len(rest)))
    counts: Counter[str | None] = Counter()
    for conversation, turn in rest:
        counts[conversation.intent] += 1
        if counts[conversation.intent] > cap:
            reasons[conversation.id, turn.index] = "intent over its cap"


def _assemble(
    synthetic: Sequence[Conversation],
    gold_turns: dict[str, list[Turn]],
    reasons: dict[Place, str],
    unusable: Set[Place],
    rules: Curation,
    edits: Mapping[Place, Edit],
) -> Curated:
    kept: list[Conversation] = []
    dropped: list[dict[str, Any]] = []
    summary: Counter[str] = Counter()
    for conversation in synthetic:
        turns = conversation.turns()
        keep: list[bool] = []
        messages = [Message(role="system", content=conversation.system)] if conversation.system else []
        for turn in turns:
            reason = reasons.get((conversation.id, turn.index))
            reply, used = turn.reference or "", reason is None
            edit = edits.get((conversation.id, turn.index))
            if reason is not None:
                gold = gold_turns[conversation.id][turn.index].reference
                usable = bool(gold) and (conversation.id, turn.index) not in unusable
                replaced = rules.use_reference_for_dropped and usable and reason in FILTERS
                summary[reason] += 1
                dropped.append(
                    {
                        "conversation": conversation.id,
                        "turn": turn.index,
                        "reason": reason,
                        "query": turn.query,
                    }
                    | {"reply": reply, "reference": gold, "replaced": replaced}
                )
                if replaced:
                    reply, used = gold or "", True
                    summary["replaced by reference"] += 1
            else:
                summary[BY_HAND[edit.action] if edit else "kept"] += 1
                if edit and edit.reply:
                    reply = edit.reply.strip()
            keep.append(used)
            messages += [*turn.context, Message(role="assistant", content=reply)]
        if any(keep):
            kept.append(
                Conversation(id=conversation.id, messages=messages, metadata=conversation.metadata | {"keep": keep})
            )
    return Curated(kept, dropped, dict(summary))


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()
