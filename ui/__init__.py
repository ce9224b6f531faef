"""The page.

Comes in: what a visitor types, picks and uploads, the runs in the runs folder, the reports and the leaderboard of
`evals`. Goes out: a Gradio page, processes that evaluate, and the uploads they read. Called by `app.py` alone;
imports `evals` and `distiller`.

Read `app` (the tabs, the look, how it is launched), then a tab: `arena_tab` (two contestants answer one
customer), `distill_tab`, `data_tab`, `evaluation_tab` (what these show is made in `run_view`, `data_view`,
`evaluation_view` and `evaluation_html`, which know no Gradio), `leaderboard_tab`, `about_tab`. `models` holds the
opened models that all visitors share, `access` knows who may do what, `api` is for programs.
"""
