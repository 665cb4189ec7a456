"""The command line, `roam`.

`app` is the entry point. `plans` has `plan`, `show`, `diff` and `export`, `layout` has `layout`,
`bench` the benchmarks. `factory` calls the user's function that `roam plan` plans. `exits` lists
the exit codes.
"""
