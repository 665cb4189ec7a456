"""The exit codes of every command. As with grep and diff, a "no" (1) differs from an error (2)."""

from __future__ import annotations

DONE = 0  # done, or the answer is yes
NO = 1  # the answer is no
TROUBLE = 2  # no answer: the command line, a file or the model is wrong; stderr says what
UNKNOWN = 3  # no answer in the time given


def exits(*more: str) -> str:
    """Returns the text about exit codes for a command's help.

    more: the codes that only this command has, each as "code: meaning".
    """
    codes = (
        f"{DONE}: done, or the answer is yes",
        *more,
        f"{TROUBLE}: an error (command line, file, model), which stderr names",
    )
    return f"Exit codes. {'. '.join(sorted(codes))}."
