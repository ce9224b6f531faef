"""The page as a whole: its tabs, its look, and how it is launched."""

from __future__ import annotations

import os
from typing import Any

import gradio as gr

from ui.arena_tab import build_arena_tab
from ui.evaluation_tab import CSS as EVALUATION_CSS
from ui.evaluation_tab import build_evaluation_tab
from ui.leaderboard_tab import build_leaderboard_tab
from ui.models import ModelCache
from ui.uploads import MAX_MB

TITLE = "Support Distiller"
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

#sides { gap: 20px; }
#sides > div { gap: 10px; }
.chat { height: clamp(260px, calc(100vh - 490px), 620px) !important; }
.chat .placeholder * { color: var(--body-text-color-subdued); }
/* Gradio's own bin empties the pane but not the conversation behind it; the Clear button does both. */
.chat button[aria-label="Clear"], .chat button[title="Clear"] { display: none; }
.figures { display: flex; flex-wrap: wrap; gap: 2px 16px; min-height: 1.5em; font-size: var(--text-sm);
  color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.figures b { color: var(--body-text-color); font-weight: 600; }
.figures abbr { text-decoration: none; cursor: help; }

#composer { gap: 10px; }
#examples { gap: 6px; }
#examples button { flex: 0 0 auto; font-weight: 400; }
#ask { align-items: flex-end; gap: 10px; }
#ask #query { flex: 1 1 320px; }
#ask #actions { flex: 0 0 250px; gap: 8px; flex-wrap: nowrap; }
#actions button { flex: 1 1 0; height: 42px; }
#notice:not(:has(.notice)) { display: none; }
.notice { color: var(--error-text-color); font-size: var(--text-sm); }
#leaderboard [role="grid"] * { font-family: var(--font) !important; font-variant-numeric: tabular-nums; }
/* Gradio 6.31 takes pinned_columns and pins nothing. */
#leaderboard [aria-colindex="1"] { position: sticky; left: 0; z-index: 2; background: var(--background-fill-secondary);
  border-right: 1px solid var(--border-color-primary); }
#refresh { width: auto !important; align-self: flex-start; }

@media (max-width: 640px) {
  .chat { height: 200px !important; }
  #sides:has(.message) ~ #composer #examples { display: none; } /* its place is the replies' by then */
  #composer { position: sticky; bottom: 0; z-index: 20; padding: 10px 0; background: var(--body-background-fill);
    border-top: 1px solid var(--border-color-primary); }
  #examples { flex-wrap: nowrap; overflow-x: auto; scrollbar-width: none; }
  #ask #query { flex: 1 1 100%; }
  #ask #actions { flex: 1 1 100%; }
}
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
    models = ModelCache()
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(INTRO, elem_id="intro")
        with gr.Tab("Side by side"):
            build_arena_tab(page, models)
        with gr.Tab("Evaluation"):
            build_evaluation_tab(page)
        with gr.Tab("Leaderboard"):
            build_leaderboard_tab(page)
    return page


def launch_options() -> dict[str, Any]:
    """Arguments of `launch`. Gradio reads GRADIO_SERVER_NAME and GRADIO_SERVER_PORT itself; without them only
    this machine sees the page, except on a Space, whose proxy stands outside."""
    on_space = bool(os.environ.get("SPACE_ID")) and not os.environ.get("GRADIO_SERVER_NAME")
    return {
        "server_name": "0.0.0.0" if on_space else None,
        "theme": theme(),
        "css": CSS + EVALUATION_CSS,
        "ssr_mode": False,  # it would need Node beside Python, for a page that is quick without
        "footer_links": ["gradio", "settings"],
        "max_file_size": f"{MAX_MB}mb",  # Gradio's upload address is open to every visitor
    }
