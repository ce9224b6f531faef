"""What a judge's verdicts come to: win rates, trust in the judge, agreement with people. And its words in a report.

    judge.json   {"rows": [a pair of models, by one judge], "agreement": [one judge with people's votes]}

Both lists are kept through later commands; what is judged again takes the place of what was there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distiller.errors import RunError
from distiller.judge import Judgement
from distiller.runs import runs_folder
from distiller.schema import text_hash, write_text
from evals.labels import labels
from evals.statistics import (
    Clustered,
    bootstrap_interval,
    cluster_sums,
    clustered_share_interval,
    cohen_kappa,
    holm,
    paired_permutation,
)

FILE = "judge.json"
VERDICTS = ("a", "b", "tie")
#: People's votes below which an agreement is named as a first impression and no more.
FEW_VOTES = 30
#: A judge whose verdicts change with the order, or cannot be read, more often than this says little about replies.
MUCH = 0.3
TITLE = "A model as judge"
MEANING = (
    "A model, not people, compared the replies of two models to the same turn, each standing first once; verdicts that "
    "change with the order are ties, and a tie is half a win. It judged correctness, truth to the policy, completeness, "
    "politeness and conciseness. Intervals are 95%, a conversation being one cluster."
)
COLUMNS = ("models", "win rate", "won", "tied", "lost", "p (Holm)", "changed with order", "chose first", "unreadable")


def tally(judgements: Sequence[Judgement], clusters: Sequence[str]) -> dict[str, Any]:
    """Wins, losses and ties of side a with 95% intervals, and how far the judge can be trusted.

    `clusters`: each one's conversation. A tie is half a win; its variance is less than a win's, so with ties the
    interval of the win rate is rather too wide than too narrow. `p`: of no preference, the signs of whole
    conversations being flipped. Shares of what was never readable are None.
    """
    read = [k for k, judgement in enumerate(judgements) if judgement.verdict is not None]
    verdicts = np.array([judgements[k].verdict for k in read])
    where = [clusters[k] for k in read]
    row: dict[str, Any] = {"battles": len(judgements), "n": len(read)}
    for name, verdict in (("wins", "a"), ("ties", "tie"), ("losses", "b")):
        row[name] = int((verdicts == verdict).sum())
        row |= _share(f"{name}_share", (verdicts == verdict).astype(float), where)
    won, lost = (verdicts == "a").astype(float), (verdicts == "b").astype(float)
    row |= _share("win_rate", (1 + won - lost) / 2, where)
    row["p"] = paired_permutation(won, lost, where) if read else None
    row["identical"] = sum(not judgement.asked for judgement in judgements)
    return row | _trust(judgements, clusters)


def _trust(judgements: Sequence[Judgement], clusters: Sequence[str]) -> dict[str, Any]:
    """Over the battles that the judge was asked: the same words on both sides have no order."""
    asked = [(judgement, cluster) for judgement, cluster in zip(judgements, clusters, strict=True) if judgement.asked]
    both = [(judgement, cluster) for judgement, cluster in asked if judgement.verdict is not None]
    changed = np.array([float(judgement.disagrees) for judgement, _ in both])
    shown = [judgement.first for judgement, _ in asked]
    turned = [judgement.second for judgement, _ in asked]
    return {
        "asked": len(asked),
        "readable": len(both),
        "unreadable": len(asked) - len(both),
        "unreadable_texts": shown.count(None) + turned.count(None),
        "disagreements": int(changed.sum()),
        **_share("disagreement", changed, [cluster for _, cluster in both]),
        # Of single texts: the place that was chosen, whoever stood there.
        "chose_first": shown.count("a") + turned.count("b"),
        "chose_second": shown.count("b") + turned.count("a"),
        "said_tie": shown.count("tie") + turned.count("tie"),
    }


def _share(name: str, values: np.ndarray, clusters: Sequence[str]) -> dict[str, Any]:
    if not len(values):
        return {name: None, f"{name}_ci": None}
    return {name: float(values.mean()), f"{name}_ci": list(clustered_share_interval(values, clusters))}


def agreement(people: Sequence[str], judgements: Sequence[Judgement], visitors: Sequence[str]) -> dict[str, Any]:
    """People's choices (a, b, tie, both_bad) next to a judge's verdicts on the same battles: Cohen's kappa.

    A tie and "both bad" are one label, since the judge has no other for them. The 95% interval is the wider one
    of two bootstraps, over battles and over visitors. `confusion[i][j]`: people chose VERDICTS[i], the judge
    VERDICTS[j]. A battle whose verdict cannot be read is counted and left out.
    """
    label = {name: k for k, name in enumerate(VERDICTS)} | {"both_bad": VERDICTS.index("tie")}
    read = [k for k, judgement in enumerate(judgements) if judgement.verdict is not None]
    cells = np.zeros((len(read), 9))
    for row, k in zip(cells, read, strict=True):
        row[3 * label[people[k]] + label[judgements[k].verdict or ""]] = 1
    table = cells.sum(axis=0).reshape(3, 3)
    result: dict[str, Any] = {
        "votes": len(people),
        "n": len(read),
        "visitors": len({visitors[k] for k in read}),
        "confusion": table.astype(int).tolist(),
        "labels": list(VERDICTS),
        "agreed": int(np.trace(table)),
        "kappa": _number(cohen_kappa(table)),
        "kappa_ci": None,
    }
    if result["kappa"] is not None:
        by_battle = Clustered(cells, _kappa_of_cells)
        by_visitor = Clustered(cluster_sums(cells, [visitors[k] for k in read]), _kappa_of_cells)
        ends = [bootstrap_interval(by_battle), bootstrap_interval(by_visitor)]
        result["kappa_ci"] = [min(low for low, _ in ends), max(high for _, high in ends)]
    return result | _trust(judgements, visitors)


def _kappa_of_cells(cells: np.ndarray) -> float:
    return cohen_kappa(cells.reshape(3, 3))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def keep(folder: Path, rows: Sequence[dict[str, Any]] = (), agreements: Sequence[dict[str, Any]] = ()) -> Path:
    """Writes them into `folder`/judge.json; what it holds of other judges and pairs stays, and what it knows of more
    battles on the same replies than a row of a later --limit does."""
    path = folder / FILE
    stored = read(folder)
    kept = {_key(row): row for row in stored["rows"]}
    for row in rows:
        before = kept.get(_key(row))
        if not (before and before.get("replies") == row.get("replies") and before["battles"] > row["battles"]):
            kept[_key(row)] = row
    agreed = {row["judge"]: row for row in stored["agreement"]}
    for row in agreements:
        if row["votes"] >= agreed.get(row["judge"], row)["votes"]:
            agreed[row["judge"]] = row
    value = {"rows": adjusted(list(kept.values())), "agreement": list(agreed.values())}
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1))
    return path


def read(folder: Path) -> dict[str, Any]:
    """Raises RunError for a file that is no such thing any more."""
    path = folder / FILE
    if not path.exists():
        return {"rows": [], "agreement": []}
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError:
        raise RunError(
            f"{path} is damaged. Delete it and judge again: verdicts that were received are not asked for twice."
        ) from None


def votes_folder() -> Path:
    """Where agreements with people's votes are kept: they are a judge's, whatever run it is asked about."""
    return runs_folder() / "judge"


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return row["judge"], *sorted((row["a"], row["b"]))


def adjusted(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `p_adjusted`: Holm's correction over the pairs of one judge."""
    result = []
    for judge in dict.fromkeys(row["judge"] for row in rows):
        mine = [row for row in rows if row["judge"] == judge]
        tested = [row for row in mine if row["p"] is not None]
        p_values = dict(zip(map(_key, tested), holm([row["p"] for row in tested]) if tested else [], strict=True))
        result += [row | {"p_adjusted": p_values.get(_key(row))} for row in mine]
    return result


def replies_hash(report: dict[str, Any], model: str) -> str:
    return text_hash(*(turn["replies"][model]["text"] for turn in report["conversations"]))


def section(report: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """What `folder`/judge.json says of the replies in this report, single battles left out; None for nothing.

    Verdicts on replies that the report no longer has are left out: they are of another model.
    """
    stored = read(folder)["rows"]
    if not stored:
        return None
    hashes = {row["model"]: replies_hash(report, row["model"]) for row in report["rows"]}
    rows = [
        {key: value for key, value in row.items() if key != "verdicts"}
        for row in stored
        if row.get("replies") == {name: hashes.get(name) for name in (row["a"], row["b"])}
    ]
    if not rows:
        return None
    judges = {row["judge"] for row in rows}
    return {
        "rows": adjusted(rows),
        "agreement": [row for row in read(votes_folder())["agreement"] if row["judge"] in judges],
    }


def sentences(judged: dict[str, Any] | None, names: dict[str, str]) -> list[str]:
    """What a section's numbers allow to be said. `names`: what the models are called."""
    if judged is None:
        return []
    return [pair_words(row, names) for row in judged["rows"]] + [agreement_words(row) for row in judged["agreement"]]


def pair_words(row: dict[str, Any], names: dict[str, str]) -> str:
    a, b, judge = names.get(row["a"], row["a"]), names.get(row["b"], row["b"]), _short(row["judge"])
    if not row["n"]:
        return f"{judge} as judge gave no readable verdict on {a} against {b} ({row['battles']} turns): nothing can be said. Ask a stronger model."
    low, high = row["win_rate_ci"]
    words = (
        f"{judge} as judge: {a} against {b} won {row['wins']}, tied {row['ties']} and lost {row['losses']} of "
        f"{row['n']} turns, win rate {row['win_rate']:.1%} (95% {low:.1%} to {high:.1%}, p {_p(row['p_adjusted'])}): "
    )
    if row["p_adjusted"] >= 0.05:
        words += "no preference can be claimed."
    else:
        words += f"it prefers {a if row['win_rate'] > 0.5 else b}."
    return f"{words} {trust_words(row)}".strip()


def trust_words(row: dict[str, Any]) -> str:
    """How far the judge can be trusted, by its own verdicts."""
    parts = []
    if row["readable"]:
        first = row["chose_first"] / (row["chose_first"] + row["chose_second"] + row["said_tie"])
        parts.append(
            f"With the order {row['disagreements']} of {row['readable']} verdicts changed ({row['disagreement']:.0%}; "
            f"they count as ties), and it chose what stood first {first:.0%} of the time."
        )
    if row["unreadable"]:
        parts.append(f"{row['unreadable']} of {row['asked']} battles have no readable verdict and are left out.")
    if row["asked"] and (row["unreadable"] > MUCH * row["asked"] or (row["disagreement"] or 0) > MUCH):
        parts.append("A judge like this says little about the replies: ask a stronger model.")
    if row.get("own"):
        parts.append("It is one of the two itself, and models favour their own words.")
    return " ".join(parts)


def agreement_words(row: dict[str, Any]) -> str:
    """What the agreement with people's votes allows to be said."""
    judge = _short(row["judge"])
    if not row["n"]:
        return (
            f"{judge} has no readable verdict on a battle that people voted on: nothing can be said of its agreement."
        )
    words = f"{judge} and people chose the same in {row['agreed']} of {row['n']} battles"
    if row["kappa"] is None:
        words += "; Cohen's kappa is not defined, since all chose the same label"
    else:
        low, high = row["kappa_ci"]
        words += f" (Cohen's kappa {row['kappa']:.2f}, 95% {low:.2f} to {high:.2f})"
        words += ": more often than by chance" if low > 0 else ": no more agreement than by chance can be claimed"
    if row["n"] < FEW_VOTES:
        words += f". These are few votes, a first impression; collect at least {FEW_VOTES} before you rely on it"
    return f"{words}."


def table(judged: dict[str, Any], names: dict[str, str]) -> list[tuple[str, ...]]:
    """The cells of each row, under COLUMNS."""
    return [
        (
            f"{names.get(row['a'], row['a'])} against {names.get(row['b'], row['b'])} ({_short(row['judge'])})",
            _percent(row, "win_rate"),
            str(row["wins"]),
            str(row["ties"]),
            str(row["losses"]),
            "–" if row["p_adjusted"] is None else _p(row["p_adjusted"]),
            _percent(row, "disagreement"),
            f"{row['chose_first']} of {row['chose_first'] + row['chose_second'] + row['said_tie']}",
            f"{row['unreadable']} of {row['asked']}",
        )
        for row in judged["rows"]
    ]


def confusion(row: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table of people's choices (rows) by the judge's (columns), its titles first."""
    title = {"a": "first model", "b": "second model", "tie": "tie"}
    names = [title[name] for name in row["labels"]]
    lines = [(name, *map(str, counts)) for name, counts in zip(names, row["confusion"], strict=True)]
    return [("people, by row; judge, by column", *names), *lines]


def cost_words(row: dict[str, Any]) -> str:
    usd = "" if row["usd"] is None else f", {row['usd']:.4f} USD"
    return (
        f"{_short(row['judge'])}: {row['calls']} calls, {row['stored']} of them answered before; "
        f"{row['prompt_tokens']:,} tokens read and {row['completion_tokens']:,} written{usd}; {row['seconds']:.0f} s."
    )


def names_of(report: dict[str, Any]) -> dict[str, str]:
    return labels(report["rows"])


def _short(judge: str) -> str:
    return labels([{"model": judge, "role": None}])[judge]


def _percent(row: dict[str, Any], key: str) -> str:
    if row[key] is None:
        return "–"
    low, high = row[f"{key}_ci"]
    return f"{row[key]:.1%} ({low * 100:.1f}–{high * 100:.1f})"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
