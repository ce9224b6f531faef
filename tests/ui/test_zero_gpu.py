"""ZeroGPU with a fake `spaces` package, in a process of its own: nothing of it reaches the other tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import PROJECT
from ui.zero_gpu import gpu

#: Takes what the real one takes, and refuses what it refuses: no coroutines. Arguments and results are pickled.
FAKE_SPACES = """
import inspect, pickle
decorated, calls, closed = [], [], []

def GPU(task):
    assert inspect.isgeneratorfunction(task) and not inspect.isasyncgenfunction(task)
    decorated.append(task.__name__)
    def handler(*args):
        calls.append(args[0])
        pieces = task(*pickle.loads(pickle.dumps(args)))
        try:
            for piece in pieces:
                yield pickle.loads(pickle.dumps(piece))
        finally:
            pieces.close()
            closed.append(args[0])
    return handler
"""
SCRIPT = """
import asyncio, json
import spaces
from distiller.chat import ChatRequest, OpenOptions
from distiller.errors import ModelError
from distiller.schema import Completion, Message
from ui import zero_gpu
from ui.zero_gpu import ZeroGPUModel, open_here

class Scripted:
    async def stream(self, request):
        for piece in ("It ", "takes ", "2 days."):
            yield piece
        yield Completion(text="It takes 2 days.", completion_tokens=3)

def opened(name, options):
    if name == "hf:/nowhere":
        raise ModelError("hf:/nowhere cannot be loaded.")
    return Scripted()

zero_gpu.open_model = opened

async def main():
    model = open_here("hf:owner/model", OpenOptions())
    request = ChatRequest(messages=[Message(role="user", content="Hello")])
    pieces = [piece async for piece in model.stream(request)]
    [completion] = await model.complete([request])
    stopped = model.stream(request)
    await anext(stopped)
    await stopped.aclose()
    broken = open_here("hf:/nowhere", OpenOptions())
    try:
        await broken.complete([request])
        error = ""
    except ModelError as failed:
        error = str(failed)
    print(json.dumps({
        "on_gpu": isinstance(model, ZeroGPUModel), "streamed": "".join(pieces[:-1]), "text": completion.text,
        "decorated": spaces.decorated, "calls": len(spaces.calls),
        "closed": len(spaces.closed), "error": error,
    }))

asyncio.run(main())
"""


def test_without_spaces_a_function_is_itself() -> None:
    def function() -> int:
        return 1

    assert gpu(function) is function


def test_on_zero_gpu_a_local_model_is_asked_where_the_gpu_is(tmp_path: Path) -> None:
    (tmp_path / "spaces.py").write_text(FAKE_SPACES)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}", "SPACES_ZERO_GPU": "true"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["on_gpu"]
    assert seen["decorated"] == ["stream_on_gpu"]
    assert seen["streamed"] == seen["text"] == "It takes 2 days."
    assert seen["calls"] == seen["closed"] == 4  # the one that was stopped is let go of as well
    assert seen["error"] == "hf:/nowhere cannot be loaded."
