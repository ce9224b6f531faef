"""What makes the student.

Comes in: a job file, conversations, the name of a teacher. Goes out: a run folder with synthetic
data, a student that loads with plain transformers, and a manifest. Called by `evals`, by `ui` and by
`python -m distiller`; imports neither.

Read in the order things happen: `schema` and `job` (what comes in), `chat` (who answers), `tasks`
(what is asked, and when an answer is correct), `retrieval`, `answer`, `generate`, `edits`, `curate` (stage 1),
`student`, `training` (stage 2), `runs` and `pipeline` (the folder they meet in, and their order).
"""
