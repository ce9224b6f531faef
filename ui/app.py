"""The page as a whole: its tabs, its look, and how it is launched."""

from __future__ import annotations

import os
from typing import Any

import gradio as gr

from distiller.job import load_job
from distiller.runs import list_runs
from evals.background import start_run
from evals.live_ratings import LiveRatings
from evals.votes import VoteStore
from ui.about_tab import CSS as ABOUT_CSS
from ui.about_tab import build_about_tab
from ui.api import build_api
from ui.arena_tab import build_arena_tab
from ui.arena_view import CSS as ARENA_CSS
from ui.data_tab import CSS as DATA_CSS
from ui.data_tab import build_data_tab
from ui.distill_tab import CSS as DISTILL_CSS
from ui.distill_tab import TAB_ID, build_distill_tab, build_offer
from ui.evaluation_tab import CSS as EVALUATION_CSS
from ui.evaluation_tab import build_evaluation_tab
from ui.job_form import QUICKSTART
from ui.leaderboard_tab import CSS as LEADERBOARD_CSS
from ui.leaderboard_tab import build_leaderboard_tab
from ui.models import ModelCache
from ui.uploads import MAX_MB

TITLE = "Support Distiller"
HOUR_S = 3_600
INTRO = (
    f"# {TITLE}\nA large teacher and the small student distilled from it answer the customers of one shop, "
    "Fernhill Electronics."
)

CSS = """
html:has(body.dark) { color-scheme: dark; }
.dark { --color-accent: var(--primary-500); }
/* clip instead of Gradio's hidden: the composer below can stick to the window. The width is said, or a wide
   table would push the page out of a narrow window. */
.gradio-container { width: 100% !important; max-width: 1180px !important; margin: 0 auto; overflow: clip !important; }
.main { padding: 16px clamp(14px, 3vw, 32px) !important; }
.html-container { padding: 0 !important; }
#intro h1 { font-size: 1.5rem; margin: 0 0 .15rem; letter-spacing: -.01em; }
#intro p { margin: 0; color: var(--body-text-color-subdued); }
.small, .small p { font-size: var(--text-sm); color: var(--body-text-color-subdued); }
.small code { white-space: normal; overflow-wrap: anywhere; }
.notice { color: var(--error-text-color); font-size: var(--text-sm); }
"""


def theme() -> gr.themes.Base:
    """Calm greens on warm grey. System fonts only: a page behind a firewall looks the same."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.emerald,
        secondary_hue=gr.themes.colors.emerald,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_lg,
        font=["system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Liberation Sans", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "Liberation Mono", "monospace"],
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_shadow="none",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        color_accent="*primary_600",
        color_accent_soft="*primary_50",
        color_accent_soft_dark="*primary_950",
        border_color_accent_subdued="*primary_200",
        border_color_accent_subdued_dark="*primary_900",
        chatbot_text_size="*text_md",
        input_border_width="1px",
        input_border_color="*neutral_200",
        input_border_color_dark="*neutral_700",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_border_width="1px",
        button_primary_border_color="transparent",
        button_primary_border_color_dark="transparent",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_900",
        button_secondary_background_fill_hover_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
    )


def build_app() -> gr.Blocks:
    """Everything that lasts longer than a visit is made here, once, and handed to the tabs."""
    models, store = ModelCache(), VoteStore()
    ratings = LiveRatings(store)
    ratings.warm()
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(HOUR_S, 24 * HOUR_S)) as page:
        build_api(models, store, ratings)  # first: a name that an event of the page has would get a number
        with gr.Row():
            gr.Markdown(INTRO, elem_id="intro")
            if os.environ.get("OAUTH_CLIENT_ID"):  # a Space whose README asks for it
                gr.LoginButton(size="sm", scale=0, min_width=180)
        with gr.Tabs() as tabs:
            with gr.Tab("Arena"):
                build_offer(page, tabs)
                build_arena_tab(page, models, store)
            with gr.Tab("Distill", id=TAB_ID) as distill:
                build_distill_tab(page, distill)
            with gr.Tab("Data"):
                build_data_tab(page, lambda job: start_run(job).id)
            with gr.Tab("Evaluation"):
                build_evaluation_tab(page)
            with gr.Tab("Leaderboard") as leaderboard:
                build_leaderboard_tab(page, ratings, leaderboard)
            with gr.Tab("About"):
                build_about_tab(page, lambda: _votes_csv(store))
    return page


def _votes_csv(store: VoteStore) -> str:
    """All votes, without who cast them."""
    return store.votes_table().drop(columns="visitor").to_csv(index=False)


def start_alone() -> None:
    """With AUTORUN=1 a page that has no run yet starts the quickstart by itself."""
    if os.environ.get("AUTORUN") == "1" and not list_runs():
        start_run(load_job(QUICKSTART))


def launch_options() -> dict[str, Any]:
    """Arguments of `launch`. Gradio reads GRADIO_SERVER_NAME and GRADIO_SERVER_PORT itself; without them only
    this machine sees the page, except on a Space, whose proxy stands outside."""
    on_space = bool(os.environ.get("SPACE_ID")) and not os.environ.get("GRADIO_SERVER_NAME")
    return {
        "server_name": "0.0.0.0" if on_space else None,
        "theme": theme(),
        "css": CSS + ARENA_CSS + DISTILL_CSS + DATA_CSS + EVALUATION_CSS + LEADERBOARD_CSS + ABOUT_CSS,
        "ssr_mode": False,  # it would need Node beside Python, for a page that is quick without
        "mcp_server": True,
        "footer_links": ["api", "gradio", "settings"],
        "max_file_size": f"{MAX_MB}mb",  # Gradio's upload address is open to every visitor
    }
