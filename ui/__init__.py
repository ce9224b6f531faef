"""The page.

Comes in: what a visitor types and picks, the runs in the runs folder, the leaderboard of `evals`. Goes
out: a Gradio page, and what was done on it: votes, uploads, hand edits, runs that were started. Called by
`app.py` alone; imports `evals` and `distiller`.

Read `app` (the tabs, the look, how it is launched), then a tab: `arena_tab` (two contestants answer one
customer), `data_tab`, `leaderboard_tab`, `about_tab`. `models` holds the opened models that all visitors share.
"""
