"""Models of transformers, tiny: ATen's kernels train them to eager's bits, Inductor's to its own.

To see what one of them does:  python -m tests.models.sweep --models BertForMaskedLM --to bert.jsonl
"""

from __future__ import annotations

import pytest

from tests.helpers import some_slow
from tests.models.architectures import NAMES
from tests.models.sweep import compare

# each has shown something, or has something, that the others have not
TELLING = {
    "WavLMForCTC": "a graph's output, a view of its own temporary, is changed by the next graph",
    "LongformerForMaskedLM": "a gradient lies otherwise than fake tensors say",
    "Qwen4ExpForCausalLM": "what lies otherwise is viewed, where aot_eager raises",
    "CTRLLMHeadModel": "several graphs hand gradients to each other",
    "AlbertForMaskedLM": "one layer's weights, used several times",
    "YosoForMaskedLM": "seven graphs, and AOTAutograd sums otherwise than eager does",
    "MraForMaskedLM": "seven graphs with sparse products by gathering, to eager's bits",
    "XLMWithLMHeadModel": "five graphs, cut where masks are checked",
    "HiggsAudioV2ForConditionalGeneration": "thirteen graphs",
    "FSMTForConditionalGeneration": "an encoder and a decoder in graphs of their own",
    "ResNetForImageClassification": "convolutions, and statistics that the forward changes",
    "NllbMoeForConditionalGeneration": "experts of which some see no token, and six graphs",
    "FNetForMaskedLM": "Fourier transforms of complex numbers",
    "SqueezeBertForMaskedLM": "grouped convolutions of length one for the linear layers",
    "BloomForCausalLM": "biases that grow with the distance, and no positions",
    "XLNetLMHeadModel": "relative positions, shifted within a matrix",
}
# most of a minute for each on a slow machine; smaller ones of their kinds run every time
LARGE = {
    "WavLMForCTC": "test_graphs.py::test_a_view_of_a_temporary_is_changed_by_the_next_graph",
    "LongformerForMaskedLM": "test_trials.py::test_a_false_fake_value_is_corrected...",
    "YosoForMaskedLM": "six graphs are NllbMoe's, and sums llama's in test_zoo_architectures.py",
    "ResNetForImageClassification": "test_zoo_architectures.py::test_training[resnet]",
    "HiggsAudioV2ForConditionalGeneration": "six graphs are NllbMoe's",
    "MraForMaskedLM": "six graphs are NllbMoe's; gathers: test_ops.py::test_gather_and_scatter",
    "XLMWithLMHeadModel": "test_graphs.py::test_a_decision_by_data",
}
GOOD = (
    "equal",
    "equal but for what differs between runs of inductor",
    "within Inductor's error",
    "raises, as without roam",
    "trains where aot_eager raises",
    "trains where inductor raises",
)


def trains(name: str, lowering: str, layers: int) -> None:
    """Trains as well as without roam, or raises where that does."""
    row = compare(name, lowering, layers)
    if row["result"] == "eager does not train":
        pytest.skip(row["detail"])
    assert row["result"] in GOOD, row
    assert not row.get("unplanned"), row


@pytest.mark.parametrize("name", some_slow({n: n for n in TELLING}, TELLING.keys() - LARGE.keys()))
def test_a_telling_few(name: str) -> None:
    trains(name, "aten", layers=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_kernels_of_aten(name: str) -> None:
    trains(name, "aten", layers=2)


@pytest.mark.slow
@pytest.mark.usefixtures("shared_kernels")
@pytest.mark.parametrize("name", NAMES)
def test_kernels_of_inductor(name: str) -> None:
    trains(name, "inductor", layers=1)


def test_there_are_enough() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 180
