"""A page of the Data tab alone. A run that is started leaves its job beside the runs, and nothing else happens."""

from __future__ import annotations

import gradio as gr

from distiller.errors import RunError
from distiller.job import DistillationJob, dump_job
from distiller.runs import runs_folder
from ui.app import CSS, launch_options
from ui.data_tab import CSS as DATA_CSS
from ui.data_tab import build_data_tab


def start(job: DistillationJob) -> str:
    started = runs_folder().parent / "started.yaml"
    if started.exists():
        raise RunError("Another run is under way.")
    started.write_text(dump_job(job), encoding="utf-8")
    return "desk-again"


if __name__ == "__main__":
    with gr.Blocks(title="Data", analytics_enabled=False) as page, gr.Tab("Data"):
        build_data_tab(page, start)
    page.launch(**(launch_options() | {"css": CSS + DATA_CSS, "mcp_server": False}))
