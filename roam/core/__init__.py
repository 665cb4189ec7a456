"""The ground floor: problems, edits, plans, lifetimes, bounds and the checker. No torch, no solver.

Read `problem`, then `lifetime` and `plan`, then `check`. Edits: `edits` says what there is, `draft`
how they are applied. Files: `files` (JSON) and `text`.
"""
