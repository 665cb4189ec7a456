"""What a problem does not allow."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from roam.core.edits import AnyEdit, apply
from roam.core.errors import EditError
from roam.core.problem import Problem


def refused(problem: Problem, edits: Sequence[AnyEdit], *named: str) -> str:
    """Asserts that the problem does not allow the edits, and that the error names these.

    Returns the message.
    """
    with pytest.raises(EditError) as caught:
        apply(problem, edits)
    for name in named:
        assert repr(name) in str(caught.value)
    return str(caught.value)
