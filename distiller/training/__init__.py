"""Stage 2: the student learns.

`tokenize` turns conversations into ids and labels (the loss mask), `signals` gives the teacher's
distributions, `losses` are pure functions, `trainer` owns the loop.
"""
