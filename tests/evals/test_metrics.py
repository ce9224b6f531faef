"""BLEU and chrF by resampled counts are sacrebleu's own scores."""

from __future__ import annotations

import sacrebleu

from evals.metrics import BLEU, CHRF, Similarity

HYPOTHESES = ["You can return it within 30 days.", "The order is on its way", ""]
REFERENCES = ["You can return a product within 30 days.", "Your order is on its way.", "Hello"]


def test_corpus_scores_equal_sacrebleu_s() -> None:
    assert (
        BLEU.score(BLEU.counts(HYPOTHESES, REFERENCES).sum(0)) == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    )
    assert (
        CHRF.score(CHRF.counts(HYPOTHESES, REFERENCES).sum(0)) == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    )
    assert "tok:13a" in BLEU.signature


def test_a_row_drawn_twice_counts_twice() -> None:
    counts = BLEU.counts(HYPOTHESES, REFERENCES)
    twice = sacrebleu.corpus_bleu([HYPOTHESES[0]] * 2 + HYPOTHESES[1:2], [[REFERENCES[0]] * 2 + REFERENCES[1:2]]).score
    assert BLEU.score(2 * counts[0] + counts[1]) == twice


def test_similarity_is_one_with_itself_and_zero_with_nothing() -> None:
    similarity = Similarity("bundled:all-minilm-l6-v2")
    same, near, far, empty = similarity.cosines(
        ["Where is my parcel?", "Where is my parcel?", "Where is my parcel?", " "],
        ["Where is my parcel?", "I am looking for my package.", "The router blinks red.", "x"],
    )
    assert abs(same - 1) < 1e-5
    assert same > near > far
    assert empty == 0
    assert similarity.truncated == 0
    similarity.cosines(["word " * 1000], ["x"])
    assert similarity.truncated == 1
