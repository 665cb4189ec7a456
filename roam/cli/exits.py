"""Exit codes of every command, those of grep and diff: a "no" is no error, and an error no "no"."""

from __future__ import annotations

DONE = 0  # done, or the answer is yes
NO = 1  # the answer is no
TROUBLE = 2  # no answer: the command line, a file or the model is wrong; stderr says what
UNKNOWN = 3  # no answer in the time given


def exits(*more: str) -> str:
    """The exit codes of a command for its help. more: what its further codes mean."""
    codes = (
        f"{DONE}: done, or the answer is yes",
        *more,
        f"{TROUBLE}: an error (command line, file, model), which stderr names",
    )
    return f"Exit codes. {'. '.join(sorted(codes))}."
