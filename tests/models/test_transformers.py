"""Models of transformers, tiny: ATen's kernels train them to eager's bits, Inductor's to its own.

To see what one of them does:  python -m tests.models.sweep --models BertForMaskedLM --to bert.jsonl
"""

from __future__ import annotations

import pytest

from tests.models.architectures import NAMES
from tests.models.sweep import compare

# each has shown something that the others have not
TELLING = {
    "WavLMForCTC": "a graph's output, a view of its own temporary, is changed by the next graph",
    "LongformerForMaskedLM": "a gradient lies otherwise than fake tensors say",
    "Qwen4ExpForCausalLM": "what lies otherwise is viewed, where aot_eager raises",
    "CTRLLMHeadModel": "several graphs hand gradients to each other",
    "AlbertForMaskedLM": "one layer's weights, used several times",
}
GOOD = (
    "equal",
    "equal but for what differs between runs of inductor",
    "within Inductor's error",
    "raises, as without roam",
    "trains where aot_eager raises",
    "trains where inductor raises",
)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in TELLING else pytest.mark.slow) for n in NAMES]
)
def test_trains_to_the_same_bits(name: str) -> None:
    """Eager's bits, or aot_eager's if AOTAutograd adds up otherwise; or raises where that does."""
    row = compare(name, "aten", layers=2)
    if row["result"] == "eager does not train":
        pytest.skip(row["detail"])
    assert row["result"] in ("equal", "raises, as without roam", "trains where aot_eager raises"), (
        row
    )
    assert not row.get("unplanned"), row


def test_there_are_enough() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 180
