"""About: how it works, what the numbers mean, what is kept, how to run it and how to call it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any, cast

import gradio as gr

from distiller.errors import DistillerError
from ui.api import Api, endpoints
from ui.leaderboard_tab import definitions
from ui.votes_pane import SAVE

#: Boxes of the picture: (title, what happens there).
STEPS = (
    ("Teacher", "a large model: good, but costly to run"),
    ("Synthetic data", "its answers to your customers’ questions"),
    ("Curation", "bad answers are dropped, each with its reason"),
    ("Student", "a small model learns from what is left"),
    ("Evaluation", "all models answer the same test questions"),
    ("Arena", "people compare replies without names"),
)

HOW = """
## How it works

1. A **teacher**, a large chat model, answers the questions of your support conversations.
2. Its answers are **curated**: what is empty, cut off, wrong against known facts or looping is dropped, and the reason is kept.
3. A **student**, a much smaller model, is trained to give the answers that are left; this is called distillation.
4. Teacher, student and three models for comparison then answer the **same test questions**, none of which they learned
   from, and every score comes with an interval.
5. In the **arena** people ask two unnamed models the same question and say which reply is better.
"""

NUMBERS = """
## What the numbers mean

Every score is computed from a limited number of questions, so part of it is luck. The **95% interval** in brackets says how
much: an interval made this way holds the score that endless questions of the same kind would give, about 95 times in 100. Two
models whose intervals overlap share a rank, because their order could be luck.
"""

VOTES = """
## How votes become ratings

A vote says that reply A is better, that B is, that it is a tie or that both are bad; the last two count half for each model.
Only blind votes count: names are shown after the vote, and a vote after the names were shown, or on a reply that gave its
model away, is kept and not counted. From all counted votes the **Bradley–Terry** model finds one rating for each model, so that
the difference of two ratings gives the chance that the one is preferred to the other; winning against a strong model counts
for more. The intervals come from drawing as many votes from those that there are, with repetition, a thousand times; and as many
visitors with all their votes, because one visitor's votes are not independent. The wider of the two counts. With fewer than
ten visitors they are rough.

A model can be asked to judge replies as well. What it says is shown apart, as the words of a model, and is never counted among
people's votes.
"""

STORED = """
## What is stored about you

The questions that you ask in the arena, the replies, your votes, and a code made from your network address, or from your login,
with a secret added (a salted hash). The code tells visitors apart, for fair limits; without the secret nobody can tell from it
who you are. Please type nothing personal. A question goes to another company only where a model that answers is its API.
"""

ON_SPACE = """
## What a restart loses

The disk of a Space does not last. A restart or an update loses the runs, the reports behind the leaderboard, and the votes,
unless its owner did one of these:

- `DATABASE_URL`: a PostgreSQL database for the votes, as a secret of the Space.
- `VOTES_DATASET`: a private data set on the Hub, to which votes are copied and from which they are read back.
- Persistent storage for the Space, with `DISTILLER_RUNS=/data/runs`, for the runs and their reports.

To keep what there is now, download the table on the Leaderboard tab as CSV or JSON{votes}.
"""

AT_HOME = """
## What is kept where

Everything is written into the folder `runs` (another one: `DISTILLER_RUNS`): a folder for each run with its models and its
report, and `arena.sqlite` with the votes. `DATABASE_URL` names another database for the votes. On a Hugging Face Space that
folder is lost at a restart; there `DATABASE_URL` or `VOTES_DATASET` keep the votes.
To take it elsewhere, download the table on the Leaderboard tab as CSV or JSON{votes}.
"""

RUN_IT = """
## Run it yourself

```
make demo
make deploy SPACE=owner/name
```

The first installs what is needed, distils, evaluates and serves this page on http://127.0.0.1:7860. The second puts the page on
a Hugging Face Space of your own. Two processor cores and 6 GB of memory are enough; no GPU and no key are needed. With your own conversations and a teacher of
your choice it is a job file of a few lines: see the README.
"""

API = """
## Call it from a program

```python
from gradio_client import Client  # pip install gradio_client

client = Client("{address}")
rows = client.predict(api_name="/leaderboard")
reply = client.predict("How long does delivery take?", api_name="/chat")
```

{endpoints}

The same endpoints are tools for assistants that speak MCP, at `{address}/gradio_api/mcp/`. “Use via API” at the foot of this
page lists every argument.
"""

LICENCES = """
## Licences

The code and the domain teacher’s adapters are Apache-2.0. So are the bundled models: SmolLM2-135M-Instruct by Hugging Face,
which answers, and all-MiniLM-L6-v2 by the Sentence Transformers project, which compares meanings. Students that you make from
other models are under the licence of the model they were made from. The support desk, Fernhill Electronics, is invented.
"""

CSS = """
#about { max-width: 880px; gap: 8px; }
#about h2 { margin: 1.2em 0 .4em; font-size: 1.15rem; }
#about pre { overflow-x: auto; }
#download-votes { width: auto !important; align-self: flex-start; }
.flow { display: grid; grid-template-columns: repeat(6, 1fr); gap: 22px; list-style: none; margin: 10px 0 6px; padding: 0; }
.flow li { position: relative; margin: 0; padding: 10px 8px; border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg);
  background: var(--block-background-fill); text-align: center; font-size: var(--text-sm); color: var(--body-text-color-subdued); }
.flow li:nth-child(4) { border-color: var(--color-accent); background: var(--color-accent-soft); }
.flow b { display: block; margin-bottom: 2px; color: var(--body-text-color); }
.flow li + li::before { content: "→"; position: absolute; left: -19px; top: calc(50% - .8em); font-size: 1.1rem; color: var(--body-text-color-subdued); }
@media (max-width: 760px) {
  .flow { grid-template-columns: 1fr; }
  .flow li + li::before { content: "↓"; left: calc(50% - .4em); top: -23px; }
}
"""


def picture() -> str:
    """The way from the teacher to the arena, as an HTML list: read in order by a screen reader, coloured by the theme."""
    boxes = "".join(f"<li><b>{title}</b>{words}</li>" for title, words in STEPS)
    return f'<ol class="flow" aria-label="From the teacher to the arena">{boxes}</ol>'


def api_words() -> str:
    """The endpoints, for this page's own address."""
    space = os.environ.get("SPACE_HOST")
    address = f"https://{space}" if space else "http://127.0.0.1:7860"
    functions = endpoints(cast(Any, Api)).items()  # of the class: their docstrings are what is read
    lines = "\n".join(
        f"- `/{name}`: {(inspect.getdoc(function) or '').splitlines()[0]}" for name, function in functions
    )
    return API.format(address=address, endpoints=lines)


def build_about_tab(page: gr.Blocks, votes: Callable[[], str] | None = None) -> None:
    """`votes`: all votes as CSV, to be downloaded; raises DistillerError where they cannot be read."""
    kept = ON_SPACE if os.environ.get("SPACE_ID") else AT_HOME
    with gr.Column(elem_id="about"):
        gr.Markdown(HOW)
        gr.HTML(picture())
        gr.Markdown(NUMBERS)
        gr.HTML(
            f'<details class="definitions"><summary>Every column of the leaderboard</summary>{definitions()}</details>'
        )
        gr.Markdown(VOTES)
        gr.Markdown(STORED)
        gr.Markdown(kept.format(votes=", and the votes here" if votes else ""))
        if votes:
            _build_download(votes)
        gr.Markdown(RUN_IT)
        gr.Markdown(api_words())
        gr.Markdown(LICENCES)


def _build_download(votes: Callable[[], str]) -> None:
    def read() -> str:
        try:
            return votes()
        except DistillerError as error:
            raise gr.Error(str(error), print_exception=False) from None

    text, name, kind = (gr.Textbox(value, visible=False) for value in ("", "votes.csv", "text/csv"))
    button = gr.Button("Download the votes (CSV)", size="sm", elem_id="download-votes")
    asked = button.click(read, None, text, queue=False, api_visibility="private")
    asked.success(None, [text, name, kind], None, js=SAVE, api_visibility="private")
