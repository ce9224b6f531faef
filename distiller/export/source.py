"""What is exported: a model of a run, a folder, a bundled model; and what is known of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distiller.chat.base import ChatRequest, Sampling
from distiller.chat.bundled import (
    ADAPTER_WEIGHTS,
    CHAT_MODELS,
    cache_folder,
    chat_model_folder,
    made_once,
    merge_adapter,
    published_name,
)
from distiller.chat.registry import local_source
from distiller.errors import ExportError, ModelError, RunError
from distiller.export.gguf_file import rounded_to
from distiller.job import CUT_FROM_TEACHER, DistillationJob
from distiller.prompting import Prompting
from distiller.runs import Run, find_run
from distiller.schema import Message, read_conversations, text_hash

#: The stage after which a contestant of a run is whole.
_MADE_BY = {
    "student": "train",
    "baseline": "student",
    "reference_trained": "reference_trained",
    "teacher": "adapt_teacher",
    "untouched": "prepare",
}
#: Asked where there is no run whose questions could be.
QUESTIONS = (
    "Hello",
    "Where is my parcel?",
    "How do I return a kettle that I bought last week?",
    "My charger does not work any more, what now?",
    "Can I pay with two gift cards at once? One has 25 dollars left.",
    "Please change the delivery address of order 20417 to 5 Mill Lane, Northport.",
    "What is the difference between express and standard delivery?",
    "I was charged twice!!! I want my money back NOW",
    "Do you have the blue one in stock, and if so, how soon could I have it?",
    "Write a short, polite e-mail to a customer whose order is two days late.",
    "Name three things to check before opening a ticket.",
    "Thanks, that is all.",
)
PROMPTS = 16
ADAPTER_CONFIG = "adapter_config.json"
REPLY_TOKENS = 48


@dataclass(frozen=True)
class Source:
    """A folder that transformers loads. `run` and `contestant` where it belongs to a run."""

    name: str
    folder: Path
    run: Run | None = None
    contestant: str = ""
    #: By the name that the model was asked for, where it is not a run's.
    published: str = ""

    @property
    def trained_for(self) -> str | None:
        """The quant that its weights were rounded to in training."""
        return rounded_to(self.folder)

    @property
    def system_prompt(self) -> str:
        return self.prompting.system(None) if self.run else ""

    @property
    def advice(self) -> list[str]:
        """What whoever serves the model has to tell it, a sentence each."""
        return advice_of(self.contestant, self.run.job) if self.run else []

    @property
    def prompting(self) -> Prompting:
        """Without the policy index: what stood beside a question is in the run's files."""
        if self.run is None:
            return Prompting("")
        job = self.run.job
        instructions = job.teacher_instructions if self.contestant == "teacher" else ""
        return Prompting(job.system_prompt, instructions, task=job.task_type)

    @property
    def base_model(self) -> str:
        """The Hub repository that the weights come from; empty where that is not known."""
        name = self.published
        if self.run is not None:
            job = self.run.job
            name = job.teacher_model if job.student_model == CUT_FROM_TEACHER or self.contestant == "teacher" else ""
            name = name or job.student_model
        if name.startswith("run:"):
            return find_source(name).base_model
        base = published_name(name) if name.startswith(("hf:", "bundled:")) else ""
        return "" if not base or Path(base).exists() else base

    @property
    def licence(self) -> str:
        """Of the weights, as the Hub abbreviates it; empty where it is not known."""
        return licence_in(self.folder / "README.md") or _BASE_LICENCES.get(self.base_model, "")

    def requests(self) -> list[ChatRequest]:
        """Prompts to compare by: those of the run's validation data as the model sees them, else QUESTIONS."""
        sampling = Sampling(max_tokens=REPLY_TOKENS)
        file = self.run.path("curated.validation.jsonl") if self.run else None
        if self.run is None or file is None or not file.exists():
            return [ChatRequest(messages=[Message(role="user", content=q)], sampling=sampling) for q in QUESTIONS]
        told = self.contestant == "teacher" or self.run.job.retrieval.student
        found = []
        for index, conversation in enumerate(_spread(read_conversations(file), PROMPTS)):
            policy = conversation.metadata.get("policy") if told else None
            messages = self.prompting.as_seen(conversation, policy).messages
            ends = [k for k, message in enumerate(messages) if k and messages[k - 1].role == "user"]
            if ends:  # turn by turn: the first, of the next conversation the second, …
                found.append(ChatRequest(messages=messages[: ends[index % len(ends)]], sampling=sampling))
        return found


#: Of the models that come with the project; others say it in the README of their folder.
_BASE_LICENCES = {bundled.hub: "apache-2.0" for bundled in CHAT_MODELS.values()}


def advice_of(contestant: str, job: DistillationJob) -> list[str]:
    said = []
    if job.system_prompt:
        said.append("It was trained with this system prompt; without it, replies are worse.")
    if contestant == "student" and job.retrieval.student:
        said.append(
            "It was trained with lines of the policies beside each question: look them up for each question and put them into "
            "its message, as `distiller/prompting.py` does."
        )
    return said


def find_source(text: str) -> Source:
    """A run (RUN or RUN/CONTESTANT, its student if none is named), a folder, or a model name: bundled:, hf:, run:.

    Raises RunError for an unknown or unfinished run, ModelError for a folder without a model.
    """
    folder = Path(text).expanduser()
    if folder.joinpath("job.yaml").exists():
        return _of_run(Run(folder.resolve()), "student")
    if any(folder.joinpath(name).exists() for name in ("config.json", ADAPTER_CONFIG)):
        return Source(folder.resolve().name, _whole(folder), published=f"hf:{text}")
    if folder.is_dir() and len(folder.parts) > 1:
        raise ModelError(f"{folder} holds no model (config.json with *.safetensors), and is no run's folder.")
    scheme, _, rest = text.partition(":")
    if scheme in {"bundled", "hf"} and rest:
        source = local_source(text)
        assert source is not None, "both schemes have weights"
        return Source(rest.rstrip("/").rpartition("/")[2], _whole(_fetched(source)), published=text)
    name, _, contestant = (rest if scheme == "run" else text).partition("/")
    return _of_run(find_run(name), contestant or "student")


def _of_run(run: Run, contestant: str) -> Source:
    if contestant in _MADE_BY and _MADE_BY[contestant] not in run.state:
        raise RunError(
            f"Run {run.id} has no finished {contestant} yet. Go on with: python -m distiller run {run.path('job.yaml')}"
        )
    behind = run.model_name(contestant)
    source = local_source(behind)
    if source is None:
        raise ExportError(
            f"{run.id}/{contestant} is {behind}, whose weights are not here; only local models can be exported."
        )
    stem = run.job.name if contestant == "student" else f"{run.job.name}-{contestant}"
    return Source(stem, _fetched(source), run, contestant)


def licence_in(card: Path) -> str:
    """The `license` in the front matter of a model's or a data set's README; empty where there is none."""
    try:
        text = card.read_text("utf-8")
        values = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else {}
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return ""
    licence = values.get("license") if isinstance(values, dict) else None
    return licence if isinstance(licence, str) else ""


def _fetched(source: str) -> Path:
    """A folder on this machine; a Hub repository is fetched."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        kinds = ["*.json", "*.jinja", "*.safetensors", "README.md"]
        return Path(snapshot_download(source, allow_patterns=kinds))
    except Exception as error:  # the client's errors share no class
        first = str(error).strip().split("\n")[0]
        raise ExportError(f"hf:{source}: neither a folder nor to be had from the Hub ({first}).") from None


def _whole(folder: Path) -> Path:
    """`folder`, or where it holds low-rank adapters alone, those merged into their base."""
    config = folder / ADAPTER_CONFIG
    if (folder / "config.json").exists() or not config.exists():
        return folder
    base = json.loads(config.read_text("utf-8")).get("base_model_name_or_path", "")
    bundled = next((n for n, known in CHAT_MODELS.items() if known.hub == base and known.adapts is None), None)
    start = chat_model_folder(bundled) if bundled else str(_fetched(base))
    target = cache_folder() / "merged" / text_hash(start, (folder / ADAPTER_WEIGHTS).read_bytes().hex())[:16]
    return Path(made_once(target, lambda unfinished: merge_adapter(start, folder, unfinished)))


def _spread(items: Sequence[Any], n: int) -> list[Any]:
    return [items[k * len(items) // n] for k in range(n)] if len(items) > n else list(items)
