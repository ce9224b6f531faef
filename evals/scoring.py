"""Predictions → scores by turn, and the scores of a model with their intervals. Knows no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distiller.schema import Conversation, Prediction, Turn
from distiller.tasks import Score, Scorer, ToScore
from evals.metrics import CORPUS_METRICS, Similarity
from evals.statistics import (
    Clustered,
    bootstrap_interval,
    cluster_sums,
    clustered_mean,
    clustered_share_interval,
)


@dataclass(frozen=True)
class Item:
    """One turn to be judged, the same for every contestant."""

    conversation: Conversation
    turn: Turn


@dataclass
class Scored:
    """One contestant's replies with their scores by turn, in the order of the items."""

    replies: list[str]
    scores: list[Score]
    similarity: np.ndarray
    #: metric → Clustered over conversations; the same conversations in the same order for every contestant.
    clustered: dict[str, Clustered] = field(default_factory=dict)
    correct: np.ndarray = field(default_factory=lambda: np.zeros(0))
    judged: list[int] = field(default_factory=list)


def items_of(data: Sequence[Conversation]) -> list[Item]:
    return [Item(conversation, turn) for conversation in data for turn in conversation.turns()]


def score_replies(
    items: Sequence[Item], replies: Sequence[str], scorer: Scorer, similarity: Similarity, teacher: Sequence[str] | None
) -> Scored:
    """`teacher`: its replies to the same items, for fidelity; None where there is no teacher."""
    scores = scorer.score([ToScore(i.conversation, i.turn, r) for i, r in zip(items, replies, strict=True)])
    gold = [k for k, item in enumerate(items) if item.turn.reference]
    cosines = similarity.cosines([replies[k] for k in gold], [items[k].turn.reference or "" for k in gold])
    by_turn = np.full(len(items), np.nan)
    by_turn[gold] = cosines
    scored = Scored(list(replies), scores, by_turn)
    scored.judged = [k for k, score in enumerate(scores) if score.correct is not None]
    scored.correct = np.array([bool(scores[k].correct) for k in scored.judged], dtype=float)
    if scored.judged:
        scored.clustered["accuracy"] = clustered_mean(scored.correct, _clusters(items, scored.judged))
    if gold:
        references = [items[k].turn.reference or "" for k in gold]
        scored.clustered |= _against(items, replies, references, gold, similarity, "")
    if teacher is not None:
        every = list(range(len(items)))
        scored.clustered |= _against(items, replies, teacher, every, similarity, "teacher_")
    return scored


def _against(
    items: Sequence[Item],
    replies: Sequence[str],
    references: Sequence[str],
    places: Sequence[int],
    similarity: Similarity,
    prefix: str,
) -> dict[str, Clustered]:
    mine = [replies[k] for k in places]
    clusters = _clusters(items, places)
    result = {
        prefix + name: Clustered(cluster_sums(metric.counts(mine, references), clusters), metric.score)
        for name, metric in CORPUS_METRICS.items()
    }
    name = "teacher_similarity" if prefix else "embedding_similarity"
    return result | {name: clustered_mean(similarity.cosines(mine, references), clusters)}


def summary(items: Sequence[Item], scored: Scored) -> dict[str, Any]:
    """Each score with its 95% interval."""
    result: dict[str, Any] = {"n": len(scored.judged) or len(items)}
    for name, clustered in scored.clustered.items():
        result[name] = clustered.value()
        result[f"{name}_ci"] = list(bootstrap_interval(clustered))
    if scored.judged:
        interval = clustered_share_interval(scored.correct, _clusters(items, scored.judged))
        result["accuracy_ci"] = list(interval)
    return result


def by_group(items: Sequence[Item], scored: Scored) -> dict[str, dict[str, dict[str, Any]]]:
    """Accuracy and similarity by intent and by turn: {"intent": {...}, "turn": {...}}."""
    groups: dict[str, dict[str, list[int]]] = {"intent": {}, "turn": {}}
    for k, item in enumerate(items):
        groups["intent"].setdefault(item.conversation.intent or "none", []).append(k)
        groups["turn"].setdefault(str(item.turn.index + 1), []).append(k)
    return {
        kind: {name: _group(items, scored, places) for name, places in sorted(groups[kind].items())} for kind in groups
    }


def _group(items: Sequence[Item], scored: Scored, places: Sequence[int]) -> dict[str, Any]:
    judged = [k for k in places if scored.scores[k].correct is not None]
    similar = scored.similarity[list(places)]
    result: dict[str, Any] = {"n": len(places), "judged": len(judged)}
    if judged:
        correct = np.array([bool(scored.scores[k].correct) for k in judged], dtype=float)
        result["accuracy"] = float(correct.mean())
        result["accuracy_ci"] = list(clustered_share_interval(correct, _clusters(items, judged)))
    if not np.isnan(similar).all():
        result["embedding_similarity"] = float(np.nanmean(similar))
    return result


def replies_in_order(items: Sequence[Item], predictions: Sequence[Prediction]) -> list[str]:
    texts = {(p.conversation, p.turn): p.completion.text for p in predictions}
    return [texts[item.conversation.id, item.turn.index] for item in items]


def _clusters(items: Sequence[Item], places: Sequence[int]) -> list[str]:
    return [items[k].conversation.id for k in places]
