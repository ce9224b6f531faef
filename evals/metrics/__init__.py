"""Metrics of predictions against a text. One registry; accuracy is the task's own.

Each entry is computed twice where it can be: against the gold reference (quality) and, as `teacher_*`,
against the teacher's reply to the same turn (fidelity).
"""

from evals.metrics.embedding import Similarity
from evals.metrics.overlap import BLEU, CHRF, CorpusMetric

CORPUS_METRICS: dict[str, CorpusMetric] = {"bleu": BLEU, "chrf": CHRF}

__all__ = ["CORPUS_METRICS", "CorpusMetric", "Similarity"]
