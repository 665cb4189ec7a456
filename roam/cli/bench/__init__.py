"""The benchmarks of the command line: `roam bench NAME`, each with `--json` and `--only`.

A file for each kind; `bench` has their commands.
"""

from roam.cli.bench import steps, optimizers, edits, searches  # noqa: F401, I001 (help's order)
from roam.cli.bench.common import bench

__all__ = ["bench"]
