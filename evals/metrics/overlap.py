"""BLEU and chrF, by sacrebleu, as corpus scores over additive counts.

sacrebleu computes a corpus score from sums of per-sentence counts. Keeping the counts of each turn lets
a bootstrap score a resample by adding rows, with the very function that gives the score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class CorpusMetric:
    name: str
    make: Callable[[], Any]

    @cached_property
    def _metric(self) -> Any:
        return self.make()

    def counts(self, hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """(turns, counts): what the score is computed from, by turn."""
        if not hypotheses:
            return np.zeros((0, 1))
        # The step that sacrebleu's own bootstrap starts from; it has no public name.
        return np.array(self._metric._extract_corpus_statistics(list(hypotheses), [list(references)]), dtype=np.float64)

    def score(self, sums: np.ndarray) -> float:
        """(counts,) summed over turns → the corpus score, 0 to 100."""
        return float(self._metric._compute_score_from_stats([int(value) for value in sums]).score)

    @cached_property
    def signature(self) -> str:
        metric = self.make()
        metric.corpus_score(["a"], [["a"]])
        return str(metric.get_signature())


def _bleu() -> Any:
    from sacrebleu.metrics import BLEU as SacreBLEU

    # `force` silences a warning about texts that end in " ."; replies do that now and then.
    return SacreBLEU(force=True)


def _chrf() -> Any:
    from sacrebleu.metrics import CHRF as SacreCHRF

    return SacreCHRF()


BLEU = CorpusMetric("bleu", _bleu)
CHRF = CorpusMetric("chrf", _chrf)
