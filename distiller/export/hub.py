"""A folder for the Hugging Face Hub: weights, tokenizer, and a model card with the figures and where they come from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from distiller.errors import ExportError
from distiller.export.source import Source, licence_in
from distiller.schema import write_text

#: Of a model's folder, what others need to load it.
PATTERNS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer*", "*.jinja",
            "special_tokens_map.json", "vocab.json", "merges.txt", "kept_tokens.json")  # fmt: skip
#: Columns of the report that the card shows: key, title, digits, scale, unit.
_COLUMNS = (
    ("accuracy", "accuracy", 1, 100, "%"),
    ("bleu", "BLEU", 1, 1, ""),
    ("chrf", "chrF", 1, 1, ""),
    ("embedding_similarity", "similarity", 3, 1, ""),
    ("teacher_bleu", "BLEU to teacher", 1, 1, ""),
    ("latency_p50_s", "reply p50", 2, 1, " s"),
    ("weights_mb", "weights MB", 0, 1, ""),
    ("parameters", "parameters", 1, 1e-6, "M"),
    ("n", "turns judged", 0, 1, ""),
)
_NO_TOKEN = """\
This was a dry run: there is no token, so nothing was sent. To upload:
  1. Make a token with write access at https://huggingface.co/settings/tokens
  2. Set HF_TOKEN to it, or run `hf auth login`
  3. Start the same command again
"""


def write_hub_folder(source: Source, target: Path, repository: str, licence: str) -> dict[str, int]:
    """Copies the model to `target`, whole or not at all, with a card. Gives the bytes by file."""
    names = sorted({path.name for pattern in PATTERNS for path in source.folder.glob(pattern)})
    if not any(name.endswith(".safetensors") for name in names):
        raise ExportError(f"{source.folder} holds no *.safetensors; save it with save_pretrained first.")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in names:
        shutil.copyfile(source.folder / name, partial / name)
    write_text(partial / "README.md", model_card(source, repository or source.name, licence))
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return {path.name: path.stat().st_size for path in sorted(target.iterdir())}


def model_card(source: Source, repository: str, licence: str) -> str:
    """The card: front matter that the Hub reads, then words and figures for people."""
    run = source.run
    report_file = run.path("report.json") if run else None
    report = json.loads(report_file.read_text("utf-8")) if report_file and report_file.exists() else None
    sections = [
        f"# {repository.rpartition('/')[2]}",
        _what(source),
        "## How to use\n\n" + _use(source, repository),
        "## Intended use and limits\n\n" + _limits(source),
    ]
    if report and run:
        sections.append("## Figures\n\n" + _figures(report))
    if run:
        sections.append("## Data and training\n\n" + _training(source))
    sections.append("## Licence\n\n" + _licence_words(source, licence))
    return f"---\n{_front_matter(source, repository, licence, report)}\n---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(source: Source, repository: str, licence: str, report: dict[str, Any] | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    row = _row_of(source, report) if report else None
    if report and row:
        for key, kind in (("accuracy", "accuracy"), ("bleu", "bleu"), ("chrf", "chrf")):
            if row.get(key) is None:
                continue
            low, high = row.get(f"{key}_ci") or (None, None)
            interval = f" (95%: {low:.3g} to {high:.3g})" if low is not None else ""
            results.append(
                EvalResult(
                    task_type="text-generation",
                    dataset_type="custom",
                    dataset_name=f"support conversations, sha256 {report['data']['sha256'][:12]}",
                    dataset_split="test",
                    metric_type=kind,
                    metric_name=f"{key}{interval}",
                    metric_value=round(float(row[key]), 4),
                )
            )
    data = ModelCardData(
        license=licence or None,
        base_model=source.base_model or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["customer-support", *(["knowledge-distillation"] if source.contestant == "student" else [])],
        model_name=repository.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    return data.to_yaml(line_break="\n")


def _what(source: Source) -> str:
    if source.run is None:
        return "A chat model for customer support."
    job = source.run.job
    if source.contestant != "student":
        return f"The {source.contestant.replace('_', ' ')} of the distillation run `{source.run.id}`, a chat model for customer support."
    cut = source.run.state.get("student", {})
    words = f"A small chat model for customer support, distilled from `{_shown(job.teacher_model)}`."
    if cut.get("parameters"):
        words += f" {cut['parameters'] / 1e6:.1f}M parameters, where what it was cut from has {cut['source_parameters'] / 1e6:.1f}M."
    if cut.get("layers"):
        words += f" {len(cut['layers'])} of its layers were kept ({', '.join(map(str, cut['layers']))})."
    if cut.get("vocabulary_size"):
        words += (
            f" Its vocabulary is trimmed to {cut['vocabulary_size']:,} tokens of the domain and all bytes: any text still "
            "encodes, texts of other domains and languages into more tokens."
        )
    return words


def _use(source: Source, repository: str) -> str:
    system = source.system_prompt
    first = f'    {{"role": "system", "content": {json.dumps(system)}}},\n' if system else ""
    return (
        "```python\n"
        "from transformers import pipeline\n\n"
        f'chat = pipeline("text-generation", model="{repository}")\n'
        "messages = [\n"
        f"{first}"
        '    {"role": "user", "content": "Where is my parcel?"},\n'
        "]\n"
        'print(chat(messages, max_new_tokens=128, do_sample=False)[0]["generated_text"][-1]["content"])\n'
        "```" + "".join(f"\n\n{sentence}" for sentence in source.advice)
    )


def _limits(source: Source) -> str:
    return "\n".join(
        (
            "- It answers questions of the kind that it was trained on, in English unless the data was in another language. "
            "On anything else it is no assistant.",
            "- It states policies as they were when its data was made, and it can state wrong ones. Have a person check "
            "what binds you: prices, refunds, guarantees, anything about safety or law.",
            "- It has no access to orders or accounts: an order number in a reply is text, not knowledge.",
            "- Small models follow instructions hidden in a customer's message more readily than large ones. Give it no "
            "powers.",
        )
    )


def _figures(report: dict[str, Any]) -> str:
    rows = report["rows"]
    shown = [column for column in _COLUMNS if any(row.get(column[0]) is not None for row in rows)]
    lines = ["| | " + " | ".join(row["role"] or row["model"] for row in rows) + " |", "|---|" + "---:|" * len(rows)]
    for key, title, digits, scale, unit in shown:
        cells = []
        for row in rows:
            value, ci = row.get(key), row.get(f"{key}_ci")
            cell = "–" if value is None else f"{value * scale:,.{digits}f}{unit}"
            if value is not None and ci:
                cell += f" ({ci[0] * scale:,.{digits}f}–{ci[1] * scale:,.{digits}f})"
            cells.append(cell)
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    data = report["data"]
    lines += [
        "",
        f"{data['turns']} turns of {data['conversations']} held-out conversations (sha256 {data['sha256'][:12]}), measured "
        f"{report['created'][:10]}. Intervals are 95%, a conversation being one cluster. Times are of the machine that measured.",
        "",
        *(f"- {words}" for words in report.get("verdicts", [])),
    ]
    return "\n".join(lines)


def _training(source: Source) -> str:
    assert source.run is not None
    job, state = source.run.job, source.run.state
    prepared = state.get("prepare", {})
    lines = []
    for split, file in (("train", job.training_data), ("validation", job.validation_data), ("test", job.test_data)):
        if file is None or split not in prepared:
            continue
        digest = prepared.get("sha256", {}).get({"train": "training"}.get(split, split) + "_data", "")
        lines.append(
            f"- {split}: `{file.name}` ({file.parent.name}), {prepared[split]['conversations']} conversations, "
            f"{prepared[split]['turns']} turns, sha256 {digest[:12]}"
        )
    licence = licence_in(job.training_data.parent / "README.md")
    lines.append(
        f"- licence of the data: {licence or 'not stated beside it; ask its owner before you share the model'}"
    )
    settings = job.hyperparameters
    lines.append(
        f"- loss {settings.loss}, learning rate {settings.learning_rate:g}, {settings.num_epochs} epochs, batches of "
        f"{settings.batch_size}, seed {job.seed}"
        + (f", weights rounded to {settings.quantization} in training" if settings.quantization else "")
    )
    return "\n".join(lines)


def _licence_words(source: Source, licence: str) -> str:
    base = source.base_model
    said = f"{licence}." if licence else "Not known: set one with `--licence` before you share it."
    more = (
        f" The weights come from [{base}](https://huggingface.co/{base}), whose licence binds as well." if base else ""
    )
    job = source.run.job if source.run else None
    if job is not None and job.teacher_model.startswith("openai:") and source.contestant == "student":
        more += " The replies that it learned from were written by an API's model: its provider's terms say what they may be used for."
    return said + more


def _row_of(source: Source, report: dict[str, Any]) -> dict[str, Any] | None:
    return next((row for row in report["rows"] if row["role"] == source.contestant), None)


def _shown(model: str) -> str:
    """A model's name without what is local: neither folders nor addresses go onto a public page."""
    scheme, _, rest = model.partition(":")
    if scheme == "openai":
        return rest.partition("@")[0]
    return Path(rest).name if scheme in {"hf", "recorded"} and Path(rest).exists() else rest


def push(folder: Path, repository: str, *, private: bool, api: Any = None) -> str:
    """Sends `folder` to a model repository of the Hub, which is made where there is none; gives words for the person.

    `api`: a huggingface_hub.HfApi; without one, that of the token in the environment, and without that nothing is sent.
    Raises ExportError with the Hub's words.
    """
    import httpx
    from huggingface_hub import HfApi, get_token

    if api is None:
        token = get_token()
        if token is None:
            return _NO_TOKEN
        api = HfApi(token=token)
    try:
        api.create_repo(repository, repo_type="model", private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, repo_type="model", folder_path=folder, commit_message="Upload the model")
    except (OSError, httpx.HTTPError) as error:
        words = str(error).strip().split("\n")[0] or type(error).__name__
        raise ExportError(
            f"{repository}: the Hub did not take it ({words}). Check the name, the connection, and that the token may "
            "write there."
        ) from None
    return f"{repository} has it: https://huggingface.co/{repository}"
