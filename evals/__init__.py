"""What judges models.

Comes in: models by name (or a run), conversations; visitors' votes. Goes out: predictions, a report, leaderboards.
Called by `ui` and by `python -m evals`; imports `distiller`, never `ui`.

Read in the order things happen: `contestants` (who), `replay` (the same turns to each, predictions),
`measure` (times and memory in a fresh process), `load` (many users at once), `metrics` (scores a turn), `statistics`
(intervals and tests), `report`, `leaderboard`. By people: `battles` and `votes` (kept in a `database`, with a `mirror`),
`leaks` and `outliers` (what does not count), `ratings`, `ratings_export`.
"""
