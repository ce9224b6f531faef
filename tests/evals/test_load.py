"""The load test as a whole: what it stores, how it goes on, real servers and processes, and the command."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from distiller.chat import OpenOptions
from distiller.errors import DistillerError, ModelError, RunError
from distiller.export.gguf_file import write_gguf
from distiller.job import parse_job
from distiller.schema import read_jsonl, write_jsonl
from evals.contestants import Contestant, in_service
from evals.load import Plan, figures_at, load_test
from evals.load_figures import Limits, TimedRequest
from evals.load_report import percentile_rows, to_html, to_markdown, verdicts
from evals.load_users import LoadSettings, measure_level
from tests.conftest import PROJECT
from tests.fakes import FakeOpenAI, Fault
from tests.tiny import talks

BIG, SMALL = Contestant("bundled:big", "teacher"), Contestant("gguf:small.gguf", None)
SETTINGS = LoadSettings(think_s=2.0, seconds=10.0, min_replies=1, max_tokens=16)
DATA = talks(6, turns=2)


class Queue:
    """Measures as a server of one would, at `service` seconds a reply and with `SETTINGS`' thinking, and notes it."""

    def __init__(self, **service: float) -> None:
        self.service = service
        self.measured: list[tuple[str, int]] = []
        self.stop_at: int | None = None
        self.identity = "the same"
        self.others_share = 0.02

    def __call__(
        self, contestant: Contestant, data_file: Path, settings: LoadSettings, users: int, options: OpenOptions
    ) -> dict[str, Any]:
        assert len(read_jsonl(data_file)) == len(DATA)
        if len(self.measured) == self.stop_at:
            raise KeyboardInterrupt
        self.measured.append((contestant.name, users))
        service = self.service["big" if contestant is BIG else "small"]
        rate = min(users / (service + settings.think_s), 1 / service)
        latency = users / rate - settings.think_s
        rows = [
            TimedRequest(k % users, 0, f"c{k}", 0, False, (k + 0.5) / rate, latency / 2, latency, 9, 11)
            for k in range(-math.ceil(latency * rate), round(60 * rate))
        ]
        return {
            "requests": [asdict(row) for row in rows],
            "window_s": 60.0,
            "cpu_s": 5.0,
            "users_cpu_s": 0.6,
            "others_share": self.others_share,
            "peak_memory_mb": 100.0 + users,
            "weights_mb": 50.0,
            "parameters": 1000,
            "identity": f"{contestant.name} {self.identity}",
        }


def outcome(out: Path, measure: Callable[..., Any], **more: Any) -> dict[str, Any]:
    """What load.json holds afterwards. `more`: of load_test or of its plan."""
    given: dict[str, Any] = {"users": (1, 2), "price_per_hour": 0.36} | more
    resume, settings = given.pop("resume", True), given.pop("settings", SETTINGS)
    contestants, data = given.pop("contestants", (BIG, SMALL)), given.pop("data", DATA)
    path = load_test(
        contestants,
        data,
        out,
        settings,
        Plan(**given),
        OpenOptions(),
        resume=resume,
        quiet=True,
        measure=measure,
    )
    return json.loads(path.read_text("utf-8"))


# What is found.


def test_users_at_equal_p95_and_the_cost_there(tmp_path: Path) -> None:
    # The teacher answers in 1 s. The student of 0.1 s keeps within that with 30 users: 30 × 0.1 − 2 = 1.
    queue = Queue(big=1.0, small=0.1)
    report = outcome(tmp_path, queue, users=(1, 4), find_users=True)
    found = report["equal_p95"]
    assert (found["first"], found["limit_s"]) == (BIG.name, pytest.approx(1.0))
    mine = found["carried"][SMALL.name]
    assert mine["users"] in {28, 29, 30}
    assert mine["users"] <= 30 < mine["fails_at"] <= 33
    assert mine["users_factor"] == mine["users"]
    # A machine-hour of 0.36 USD: 1,200 replies an hour of the teacher, 36,000 of the student at full load.
    assert figures_at(report, BIG.name, 1)["cost_per_1k"] == pytest.approx(0.3)
    assert mine["cost_per_1k"] == pytest.approx(0.01, rel=0.02)
    assert mine["cost_cut"] == pytest.approx(1 - mine["cost_per_1k"] / figures_at(report, BIG.name, 1)["cost_per_1k"])
    assert any(f"carries {mine['users']} users at once" in words for words in verdicts(report))
    # One user of each comes first, then what was asked for, then the search: doubled, then halved.
    assert queue.measured[:3] == [(BIG.name, 1), (SMALL.name, 1), (BIG.name, 4)]
    assert [users for name, users in queue.measured if name == SMALL.name][:6] == [1, 4, 8, 16, 32, 24]
    with pytest.raises(RunError, match="with 77 users was not measured"):
        figures_at(report, SMALL.name, 77)


def test_a_first_model_that_carries_more_is_counted_with_all_its_users(tmp_path: Path) -> None:
    # Two users of a teacher of 1 s who think for 2 s need not wait for each other.
    report = outcome(tmp_path, Queue(big=1.0, small=0.1), users=(1, 2, 4, 30, 60))
    carried = report["equal_p95"]["carried"]
    assert [(carried[m.name]["users"], carried[m.name]["users_factor"]) for m in (BIG, SMALL)] == [(2, 1.0), (30, 15.0)]
    # 2,400 replies an hour against 36,000.
    assert carried[SMALL.name]["cost_cut"] == pytest.approx(1 - 2400 / 36000)
    assert "big keeps within that with 2 users as well." in verdicts(report)
    assert any("carries 30 users at once, 15 times as many as big (measured; 60 are" in w for w in verdicts(report))


def test_the_first_model_is_measured_with_one_user_even_unasked(tmp_path: Path) -> None:
    queue = Queue(big=1.0, small=0.1)
    outcome(tmp_path, queue, users=(4,))
    assert sorted(queue.measured) == [(BIG.name, 1), (BIG.name, 4), (SMALL.name, 4)]


def test_the_files_hold_the_requests_and_every_definition(tmp_path: Path) -> None:
    report = outcome(tmp_path, Queue(big=1.0, small=0.1), limits=Limits(latency_s=0.5))
    rows = read_jsonl(tmp_path / "requests.jsonl")
    assert {(row["model"], row["users"]) for row in rows} == {(m.name, n) for m in (BIG, SMALL) for n in (1, 2)}
    assert rows[0]["tpot_s"] == pytest.approx((rows[0]["latency_s"] - rows[0]["ttft_s"]) / 10)
    markdown = (tmp_path / "load.md").read_text("utf-8")
    html = (tmp_path / "load.html").read_text("utf-8")
    for text in (markdown, html):
        assert "whole reply at most 0.5 s" in text
        assert "own earlier replies" in text
        assert "The users themselves kept one core busy for at most 1.0% of a window" in text
    assert "| goodput | Replies a second that kept every limit (below). |" in markdown
    assert "cdn.plot.ly" not in html.split("</script>")[-1]
    assert figures_at(report, SMALL.name, 2)["kept_limits"] == 1.0
    assert figures_at(report, BIG.name, 2)["kept_limits"] == 0.0


def test_every_figure_is_explained_in_the_docs(tmp_path: Path) -> None:
    told = (PROJECT / "docs" / "load.md").read_text("utf-8")
    figures = figures_at(outcome(tmp_path, Queue(big=1.0, small=0.1)), BIG.name, 1)
    keys = {re.sub(r"_p(90|95|99)_s", "_p50_s", key) for key in figures if not key.endswith("_ci")}
    assert [key for key in sorted(keys) if f"`{key}`" not in told] == []


def test_a_model_that_fails_is_shown_as_one_that_never_ends(tmp_path: Path) -> None:
    class Refusing(Queue):
        def __call__(self, contestant: Contestant, *rest: Any) -> dict[str, Any]:
            result = super().__call__(contestant, *rest)
            share = 1 if contestant is BIG else 4  # all of one's, a quarter of the other's
            for row in result["requests"][::share]:
                row |= {"error": "the server answered 503", "ttft_s": None, "completion_tokens": None}
            return result

    report = outcome(tmp_path, Refusing(big=1.0, small=0.1))
    assert report["equal_p95"] is None
    assert verdicts(report) == [
        "The first model failed with one user: there is no time that the others could be held to."
    ]
    shown = {(row[0], row[1], row[2]): row[3:] for row in percentile_rows(report)}
    assert shown["big", "1", "whole reply"] == ["∞ (∞–∞)"] * 4
    assert shown["big", "1", "time per output token"] == ["–"] * 4
    assert shown["small.gguf", "2", "time to first token"][0].startswith("50 ms")
    (count,) = figures_at(report, SMALL.name, 2)["errors"].values()
    assert f"small.gguf, 2 users, {count} failed: the server answered 503." in to_markdown(report)
    assert shown["small.gguf", "2", "whole reply"][0] == "100 ms (100–∞)"
    assert shown["small.gguf", "2", "whole reply"][2] == "∞ (0.10–∞)"
    assert "∞" in to_html(report)


# Going on.


def test_a_killed_test_goes_on_with_the_level_that_was_cut(tmp_path: Path) -> None:
    queue = Queue(big=1.0, small=0.1)
    queue.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        outcome(tmp_path, queue)
    stored = json.loads((tmp_path / "load.json").read_text("utf-8"))
    assert [[level["users"] for level in model["levels"]] for model in stored["models"]] == [[1, 2], [1]]
    # What a kill between the two files leaves behind: requests of a level that load.json does not name.
    extra = asdict(TimedRequest(0, 0, "c", 0, False, 0.0, 1.0, 99.0)) | {
        "model": SMALL.name,
        "users": 2,
        "tpot_s": None,
    }
    write_jsonl(tmp_path / "requests.jsonl", [*read_jsonl(tmp_path / "requests.jsonl"), extra])
    queue.stop_at = None
    resumed = outcome(tmp_path, queue)
    assert queue.measured == [(BIG.name, 1), (SMALL.name, 1), (BIG.name, 2), (SMALL.name, 2)]
    whole = outcome(tmp_path / "whole", Queue(big=1.0, small=0.1))
    assert [model["levels"] for model in resumed["models"]] == [model["levels"] for model in whole["models"]]


def test_other_limits_prices_levels_and_models_need_no_level_again(tmp_path: Path) -> None:
    queue = Queue(big=1.0, small=0.1)
    outcome(tmp_path, queue, contestants=(BIG,))
    queue.measured.clear()
    report = outcome(tmp_path, queue, users=(1, 2, 4), price_per_hour=0.72, limits=Limits(ttft_s=9.0))
    assert queue.measured == [(BIG.name, 4), (SMALL.name, 1), (SMALL.name, 2), (SMALL.name, 4)]
    assert figures_at(report, BIG.name, 1)["cost_per_1k"] == pytest.approx(0.6)
    assert figures_at(report, BIG.name, 1)["kept_limits"] == 1.0


def test_a_level_that_other_programs_disturbed_is_named_and_can_be_measured_again(tmp_path: Path) -> None:
    queue = Queue(big=1.0, small=0.1)
    outcome(tmp_path, queue, users=(1,))
    queue.others_share = 0.4
    outcome(tmp_path, queue)
    markdown = (tmp_path / "load.md").read_text("utf-8")
    assert "while big with 2 users (40%), small.gguf with 2 users (40%) was measured" in markdown
    queue.others_share = 0.0
    queue.measured.clear()
    outcome(tmp_path, queue)
    assert queue.measured == []
    report = outcome(tmp_path, queue, again_if_disturbed=True)
    assert queue.measured == [(BIG.name, 2), (SMALL.name, 2)]
    assert figures_at(report, BIG.name, 2)["others_share"] == 0.0
    assert "Disturbed" not in (tmp_path / "load.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"settings": replace(SETTINGS, think_s=3.0)}, "it was made with think_s 2.0, not 3.0"),
        ({"settings": replace(SETTINGS, own_history=False)}, "it was made with own_history True, not False"),
        ({"data": DATA[:5]}, "it was made with conversations 6, not 5"),
        ({"data": [*DATA[:5], *talks(1, prefix="x")]}, "it was made with other conversations"),
        ({"contestants": (replace(BIG, role="student"),)}, "bundled:big was told something else there"),
    ],
)
def test_a_test_with_other_settings_is_refused_in_words(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    outcome(tmp_path, Queue(big=1.0, small=0.1))
    before = (tmp_path / "load.json").read_bytes()
    with pytest.raises(RunError) as caught:
        outcome(tmp_path, Queue(big=1.0, small=0.1), **change)
    assert words in str(caught.value)
    assert "--no-resume" in str(caught.value)
    assert (tmp_path / "load.json").read_bytes() == before


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    report = json.loads(path.read_text("utf-8"))
    change(report)
    path.write_text(json.dumps(report), "utf-8")


def test_levels_of_another_machine_another_model_or_a_damaged_file_are_refused(tmp_path: Path) -> None:
    queue = Queue(big=1.0, small=0.1)
    outcome(tmp_path, queue)
    queue.identity = "trained again"
    with pytest.raises(RunError, match="bundled:big is another model than it was"):
        outcome(tmp_path, queue, users=(1, 4))
    changed(tmp_path / "load.json", lambda report: report["machine"].update(cores=640))
    with pytest.raises(RunError, match="another number of cores, 640"):
        outcome(tmp_path, queue)
    changed(tmp_path / "load.json", lambda report: report.pop("models"))
    changed(tmp_path / "load.json", lambda report: report.pop("machine"))
    with pytest.raises(RunError, match="not written by this version"):
        outcome(tmp_path, queue)
    (tmp_path / "load.json").write_text("{", "utf-8")
    with pytest.raises(RunError, match="not written by this version"):
        outcome(tmp_path, queue)
    assert len(outcome(tmp_path, queue, resume=False)["models"]) == 2


def test_what_a_model_is_told_is_part_of_what_is_measured(tmp_path: Path) -> None:
    policies = tmp_path / "policies.md"
    policies.write_text("## Delivery\n\nTwo days.\n", "utf-8")
    job: dict[str, Any] = {"name": "desk", "teacher_model": BIG.name, "student_model": "teacher"}
    job |= {"training_data": "t.jsonl", "validation_data": "v.jsonl", "retrieval": {"policies": str(policies)}}
    one = parse_job(job, check_files=False)

    def both(told: Any) -> tuple[Contestant, ...]:
        return in_service(BIG.name, told), in_service(SMALL.name, told)

    assert [c.role for c in both(one)] == ["teacher", None]
    queue = Queue(big=1.0, small=0.1)
    outcome(tmp_path / "out", queue, contestants=both(one))
    cheaper = parse_job(
        job | {"evaluation": {"machine_hour_usd": 1.0}, "hyperparameters": {"num_epochs": 9}}, check_files=False
    )
    count = len(queue.measured)
    outcome(tmp_path / "out", queue, contestants=both(cheaper))
    assert len(queue.measured) == count
    policies.write_text("## Delivery\n\nThree days.\n", "utf-8")
    outcome(tmp_path / "out", queue, contestants=both(one)[1:])  # the student is told none of it
    with pytest.raises(RunError, match="told something else"):
        outcome(tmp_path / "out", queue, contestants=both(one))


# Real servers and processes.

QUICK = LoadSettings(think_s=0.05, seconds=0.5, min_replies=3, max_tokens=12)


def test_a_server_of_the_openai_protocol_is_measured_and_its_errors_counted(
    tmp_path: Path, openai_server: FakeOpenAI
) -> None:
    openai_server.piece_delay_s = 0.005
    openai_server.always, openai_server.fail_when = Fault(status=503), "case c1."
    report = outcome(tmp_path, measure_level, contestants=(Contestant(openai_server.name, None),), settings=QUICK)
    for users in (1, 2):
        figures = figures_at(report, openai_server.name, users)
        assert figures["requests"] >= 3
        assert figures["replies_per_s"] > 0
        assert 0.005 <= figures["tpot_p50_s"] < figures["latency_p50_s"]
        assert (figures["peak_memory_mb"], figures["cpu_s_per_reply"], figures["users_cpu_share"]) == (None,) * 3
        assert figures["users_core_share"] > 0
    rows = read_jsonl(tmp_path / "requests.jsonl")
    assert {row["error"] for row in rows} == {None, "the server answered 503"}
    assert {row["conversation"] for row in rows if row["error"]} == {"c1"}
    assert {row["completion_tokens"] for row in rows if not row["error"]} == {12}
    seconds = [r["messages"] for r in openai_server.requests if "Your order" in str(r["messages"])]
    assert seconds, "no turn followed the server's own reply"


def test_a_local_model_is_measured_each_level_in_a_process_of_its_own(tmp_path: Path, tiny_model: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(tiny_model, file, "q8_0")
    name = f"gguf:{file}"
    job = parse_job(
        {
            "name": "desk",
            "teacher_model": name,
            "student_model": "teacher",
            "training_data": "t.jsonl",
            "validation_data": "v.jsonl",
            "system_prompt": "You are brief.",
        },
        check_files=False,
    )
    # What this process holds does not count for the levels'.
    held = bytearray(os.urandom(1024)) * (600 * 1024)
    report = outcome(tmp_path / "out", measure_level, contestants=(in_service(name, job),), settings=QUICK)
    one, two = (figures_at(report, name, users) for users in (1, 2))
    assert 50 < one["peak_memory_mb"] < 500 < len(held) / 1e6
    assert abs(one["peak_memory_mb"] - two["peak_memory_mb"]) < 60  # the second is not on top of the first
    assert one["cpu_s_per_reply"] > 0
    assert 0 < one["users_cpu_share"] < 1
    assert one["cost_per_1k"] > 0
    row = report["models"][0]
    assert (row["role"], row["weights_mb"]) == ("teacher", pytest.approx(file.stat().st_size / 1e6))
    assert row["identity"].startswith("gguf:")


def command(*more: str) -> list[str]:
    return [sys.executable, "-m", "evals", "load", *more]


def run(*more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*more), cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    write_jsonl(path, DATA)
    return path


def test_a_killed_command_takes_its_level_along_and_goes_on(
    tmp_path: Path, data: Path, openai_server: FakeOpenAI
) -> None:
    out = tmp_path / "out"
    options = ["--model", openai_server.name, "--data", str(data), "--out", str(out), "--users", "1,3"]
    options += ["--think", "0.05", "--seconds", "0.5", "--min-replies", "2", "--max-new-tokens", "8"]
    process = subprocess.Popen(command(*options), cwd=PROJECT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until((out / "load.json").exists, process)
    until(lambda: len(psutil.Process(process.pid).children()) > 0, process)
    (level,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.wait()
    level.wait(20)
    kept = [row for row in read_jsonl(out / "requests.jsonl") if row["users"] == 1]
    done = run(*options)
    assert done.returncode == 0, done.stderr
    assert "1 user: measuring" not in done.stderr
    assert "3 users: measuring" in done.stderr
    assert [row for row in read_jsonl(out / "requests.jsonl") if row["users"] == 1] == kept
    assert "## fake-1" in done.stdout
    assert f"Report: {out / 'load.html'}" in done.stdout


def until(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not holds():
        assert process.poll() is None
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--model", "bundled:no-such"], 5, "no-such"),
        (["--model", "gguf:no-such.gguf"], 5, "no-such.gguf cannot be read"),
        (["--model", "nonsense"], 5, "is no model name"),
        (
            ["--model", "openai:x@http://127.0.0.1:9", "--users", "1,zero"],
            1,
            "--users '1,zero': expected whole numbers",
        ),
        (["--model", "openai:x@http://127.0.0.1:9", "--users", "0"], 1, "expected whole numbers above 0"),
        ([], 3, "needs --model"),
        (["--run", "no-such"], 8, "no-such"),
        (["--run", "x", "--job", "configs/quickstart.yaml"], 1, "leave out --job"),
        (["--model", "nonsense", "--history", "none"], 2, "--history"),
    ],
)
def test_what_was_asked_wrongly_is_said_in_words(
    tmp_path: Path, data: Path, options: list[str], code: int, words: str
) -> None:
    done = run(*options, "--data", str(data), "--out", str(tmp_path / "out"))
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == code


def test_a_server_that_is_not_there_is_a_result(tmp_path: Path, data: Path) -> None:
    options = ["--data", str(data), "--out", str(tmp_path / "out"), "--users", "1", "--seconds", "0.2"]
    done = run("--model", "openai:x@http://127.0.0.1:9/v1", *options, "--min-replies", "1", "--think", "0")
    assert done.returncode == 0, done.stderr
    assert "The first model failed with one user" in done.stdout
    assert "no connection to the server" in (tmp_path / "out" / "load.md").read_text("utf-8")


def test_a_level_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data.jsonl", DATA)
    with pytest.raises(ModelError, match=r"Measuring gguf:none\.gguf with 1 user failed: .*cannot be read"):
        measure_level(Contestant("gguf:none.gguf", None), tmp_path / "data.jsonl", QUICK, 1, OpenOptions())
    with pytest.raises(DistillerError, match="with 2 users failed"):
        measure_level(Contestant("nonsense", None), tmp_path / "data.jsonl", QUICK, 2, OpenOptions())
