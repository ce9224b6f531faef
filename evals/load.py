"""The load test: how fast a model stays with many users at once, and how many it carries.

    OUT/  load.json  load.md  load.html  requests.jsonl  data.jsonl

Level by level (so many users), each in a process of its own, so that its memory is its own and nothing is warm. A
level that is in `load.json`, which is written last, is not measured again; its figures are made from the stored
requests, so other limits and prices need no new measurement.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from distiller.chat import OpenOptions
from distiller.errors import RunError
from distiller.job import Evaluation
from distiller.progress import Progress
from distiller.runs import file_hash, now, versions
from distiller.schema import Conversation, read_jsonl, text_hash, to_line, write_jsonl
from distiller.work import locked
from evals.contestants import Contestant
from evals.load_figures import MAX_OTHERS_SHARE, Carried, Limits, TimedRequest, carried, level_figures, next_level
from evals.load_report import write_load_report
from evals.load_users import LoadSettings, measure_level
from evals.measure import machine

#: Measures one level: contestant, data file, settings, users, options → what `load_users.measure_level` gives.
Measure = Callable[[Contestant, Path, LoadSettings, int, OpenOptions], dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """What is measured, and how it is judged. Prices in USD."""

    users: Sequence[int] = (1, 2, 4, 8, 16, 32)
    #: Also search for the most users that each further model carries, up to `most_users`.
    find_users: bool = False
    most_users: int = 256
    #: Levels of an earlier call in which other programs took much of the machine are measured again.
    again_if_disturbed: bool = False
    limits: Limits = field(default_factory=Limits)
    #: None: the default price for models on this machine, and no cost for others.
    price_per_hour: float | None = None
    default_price: float = field(default_factory=lambda: Evaluation().machine_hour_usd)


def load_test(
    contestants: Sequence[Contestant],
    data: Sequence[Conversation],
    out: Path,
    settings: LoadSettings,
    plan: Plan,
    options: OpenOptions,
    *,
    resume: bool = True,
    quiet: bool = False,
    measure: Measure = measure_level,
) -> Path:
    """Measures what is not measured yet; gives the path of load.json. The first contestant is what others are held to.

    Raises RunError where `out` holds a test with other settings, and DistillerError where a model cannot be opened.
    What a model does to single requests is counted, and ends nothing.

    To read it: `json.loads(path.read_text())["equal_p95"]["carried"][name]` has the users carried, `users_factor`,
    `cost_per_1k` and `cost_cut`; `figures_at` has everything else.
    """
    with locked(out):
        test = _Test(out, contestants, data, settings, plan, resume)
        progress = Progress(out / "events.jsonl", quiet=quiet)
        with progress.work():
            # Of every model its lightest level first: one that cannot be opened is not found out an hour later.
            for most_levels in (1, None):
                for contestant in contestants:
                    for users in islice(test.levels_of(contestant), most_levels):
                        words = f"{contestant.name}, {users} user{'s' * (users > 1)}"
                        progress.say(f"{words}: measuring")
                        test.add(contestant, users, measure(contestant, test.data_file, settings, users, options))
                        progress.say(f"{words}: {test.words(contestant.name, users)}")
            return test.write()


def figures_at(report: Mapping[str, Any], model: str, users: int) -> dict[str, Any]:
    """The figures of one model at one level of load.json. Raises RunError where that was not measured."""
    levels = {(row["model"], level["users"]): level for row in report["models"] for level in row["levels"]}
    if (model, users) not in levels:
        known = ", ".join(f"{name} with {n}" for name, n in levels) or "nothing"
        raise RunError(f"{model} with {users} users was not measured. There is: {known}.")
    return levels[model, users]


class _Test:
    """The test as it is stored, and what is still to be measured."""

    def __init__(
        self,
        out: Path,
        contestants: Sequence[Contestant],
        data: Sequence[Conversation],
        settings: LoadSettings,
        plan: Plan,
        resume: bool,
    ) -> None:
        self.out, self.contestants, self.plan = out, contestants, plan
        self.data_file, self._path, self._requests_file = (
            out / name for name in ("data.jsonl", "load.json", "requests.jsonl")
        )
        self._settings = asdict(settings) | {"conversations": len(data), "data": text_hash(*map(to_line, data))}
        #: By model: who it is, and what was measured, by level.
        self._models: dict[str, dict[str, Any]] = {}
        self._requests: dict[tuple[str, int], list[TimedRequest]] = {}
        self._known_figures: dict[tuple[str, int], dict[str, Any]] = {}
        if resume and self._path.exists():
            self._read()
        if not resume:  # before the requests that it speaks of go
            self._path.unlink(missing_ok=True)
        write_jsonl(self.data_file, data)
        for contestant in contestants:
            told = _told(contestant)
            model = self._models.setdefault(
                contestant.name, {"model": contestant.name, "role": contestant.role, "told": told, "measured": {}}
            )
            if model["told"] != told:
                raise RunError(self._other(f"{contestant.name} was told something else there (its job has changed)"))

    def _read(self) -> None:
        try:
            stored = json.loads(self._path.read_text("utf-8"))
            self._check(stored)
            self._take(stored)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RunError(self._other(f"{self._path.name} was not written by this version of the load test")) from None

    def _check(self, stored: dict[str, Any]) -> None:
        here = machine()
        for key, words in (("cpu", "processor"), ("cores", "number of cores")):
            if stored["machine"][key] != here[key]:
                why = f"it was measured with another {words}, {stored['machine'][key]}, not {here[key]}"
                raise RunError(self._other(why))
        for key, value in self._settings.items():
            other = stored["settings"].get(key)
            if other != value:
                shown = "other conversations" if key == "data" else f"{key} {other}, not {value}"
                raise RunError(self._other(f"it was made with {shown}"))

    def _take(self, stored: dict[str, Any]) -> None:
        for row in stored["models"]:
            measured = {int(users): value for users, value in row["measured"].items()}
            if self.plan.again_if_disturbed:
                measured = {n: v for n, v in measured.items() if (v["others_share"] or 0.0) <= MAX_OTHERS_SHARE}
            self._models[row["model"]] = {k: row[k] for k in ("model", "role", "told")} | {"measured": measured}
            self._requests |= {(row["model"], users): [] for users in measured}
        for line in read_jsonl(self._requests_file):
            place = line.pop("model"), line.pop("users")
            if place in self._requests:  # of a level whose end was not noted, some may be there
                line.pop("tpot_s")
                self._requests[place].append(TimedRequest(**line))

    def _other(self, why: str) -> str:
        return (
            f"{self.out} holds a load test that this one cannot go on with: {why}. Give the same again, another --out, "
            "or --no-resume to begin anew in its place."
        )

    def levels_of(self, contestant: Contestant) -> Iterator[int]:
        """What is left to measure of it, in order. The first model's level of one user is what all are held to."""
        first = contestant.name == self.contestants[0].name
        wanted = {*self.plan.users, 1} if first else set(self.plan.users)
        measured = self._models[contestant.name]["measured"]
        yield from sorted(wanted - measured.keys())
        limit = self._limit()
        if self.plan.find_users and not first and limit is not None:
            while (users := next_level(self._p95(contestant.name), limit, self.plan.most_users)) is not None:
                yield users

    def add(self, contestant: Contestant, users: int, result: dict[str, Any]) -> None:
        model = self._models[contestant.name]
        requests = [TimedRequest(**row) for row in result.pop("requests")]
        before = {other["identity"] for other in model["measured"].values()}
        if before - {result["identity"]}:
            raise RunError(self._other(f"{contestant.name} is another model than it was when that was measured"))
        model["measured"][users] = result
        self._requests[contestant.name, users] = requests
        # The requests first: what load.json names is there.
        write_jsonl(self._requests_file, self._rows())
        self.write()

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"model": model, "users": users, **vars(request), "tpot_s": request.tpot_s}
            for (model, users), requests in sorted(self._requests.items())
            for request in requests
        ]

    def _figures(self, name: str, users: int) -> dict[str, Any]:
        if (name, users) not in self._known_figures:
            self._known_figures[name, users] = self._new_figures(name, users)
        return self._known_figures[name, users]

    def _new_figures(self, name: str, users: int) -> dict[str, Any]:
        measured, plan = self._models[name]["measured"][users], self.plan
        local = measured["parameters"] is not None
        price = plan.default_price if plan.price_per_hour is None and local else plan.price_per_hour
        figures = level_figures(
            self._requests[name, users],
            users=users,
            window_s=measured["window_s"],
            cpu_s=measured["cpu_s"],
            users_cpu_s=measured["users_cpu_s"],
            limits=plan.limits,
            price_per_hour=price,
        )
        return figures | {key: measured[key] for key in ("peak_memory_mb", "others_share")}

    def _p95(self, name: str) -> dict[int, float | None]:
        return {users: self._figures(name, users)["latency_p95_s"] for users in self._models[name]["measured"]}

    def _limit(self) -> float | None:
        """The p95 of the first model with one user; None where it is not measured, or failed."""
        name = self.contestants[0].name
        return self._figures(name, 1)["latency_p95_s"] if 1 in self._models[name]["measured"] else None

    def words(self, name: str, users: int) -> str:
        row = self._figures(name, users)
        p95 = row["latency_p95_s"]
        told = f"{row['replies_per_s']:.2f} replies/s, p95 " + ("∞" if p95 is None else f"{p95:.2f} s")
        told += f", {row['error_share']:.0%} errors" if row["errors"] else ""
        others = row["others_share"] or 0.0
        return (
            f"{told}; disturbed: other programs took {others:.0%} of the machine" if others > MAX_OTHERS_SHARE else told
        )

    def write(self) -> Path:
        """All files from what is stored. Models of earlier calls that are not asked for now stay."""
        models = []
        for name, model in self._models.items():
            measured = model["measured"]
            one: dict[str, Any] = next(iter(measured.values()), {})
            row = model | {key: one.get(key) for key in ("identity", "parameters", "weights_mb")}
            models.append(row | {"levels": [self._figures(name, users) for users in sorted(measured)]})
        report = {
            "title": "Load test",
            "created": now(),
            "machine": machine(),
            "versions": versions(),
            "settings": self._settings,
            "limits": asdict(self.plan.limits),
            "price_per_hour": self.plan.default_price if self.plan.price_per_hour is None else self.plan.price_per_hour,
            "models": models,
        }
        report["equal_p95"] = self._equal_p95(models)
        return write_load_report(report, self.out)

    def _equal_p95(self, models: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """How many users each model carries within the p95 that the first one has with one; by model."""
        limit = self._limit()
        if limit is None:
            return None
        first = self.contestants[0].name
        found = {m["model"]: carried(self._p95(m["model"]), limit) for m in models if m["measured"]}
        return {
            "first": first,
            "limit_s": limit,
            "limit_s_ci": self._figures(first, 1)["latency_p95_s_ci"],
            "carried": {name: self._beside(name, each, first, found[first]) for name, each in found.items()},
        }

    def _beside(self, name: str, each: Carried, first: str, first_carries: Carried) -> dict[str, Any]:
        """Against the first model, which may itself carry more than one user: `users_factor`, times as many users;
        `cost_per_1k`, at the users that it carries; `cost_cut`, the share by which that is less than the first's."""
        cost = self._figures(name, each.users)["cost_per_1k"] if each.users else None
        of_first = self._figures(first, first_carries.users)["cost_per_1k"]
        row = asdict(each) | {"users_factor": each.users / first_carries.users, "cost_per_1k": cost}
        return row | {"cost_cut": 1 - cost / of_first if cost is not None and of_first else None}


def _told(contestant: Contestant) -> str:
    """Changes where what the model is told does."""
    job, teacher = contestant.job, contestant.role == "teacher"
    if job is None:
        return text_hash(contestant.role or "")[:16]
    parts = {"system_prompt", "task_type"} | ({"teacher_instructions"} if teacher else set())
    files: list[Path] = []
    if teacher or job.retrieval.student:
        parts |= {"retrieval"}
        files = [path for path in (job.retrieval.policies, job.retrieval.questions) if path and path.exists()]
    told = job.model_dump_json(include=parts)
    return text_hash(contestant.role or "", told, *map(file_hash, files))[:16]
