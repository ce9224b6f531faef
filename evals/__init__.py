"""What judges models.

Comes in: models by name (or a run), conversations. Goes out: predictions, a report, a leaderboard.
Called by `ui` and by `python -m evals`; imports `distiller`, never `ui`.

Read in the order things happen: `contestants` (who), `replay` (the same turns to each, predictions),
`measure` (times and memory in a fresh process), `metrics` (scores a turn), `statistics` (intervals and
tests), `report`, `leaderboard`.
"""
