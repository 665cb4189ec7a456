"""Which second moments may go: the static rules, the measurement, and their file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from roam.bench.zoo import TINY
from roam.core.errors import RulesFileError
from roam.optim import (
    AdamA,
    OptimizerError,
    SlimAdamA,
    SlimRules,
    SnrMeasurement,
    static_rules,
)
from roam.optim.slim_rules import MeanRule
from roam.optim.snr import CEILING, candidates, is_due, snr
from tests.optim.reference import backward, batches, mlp

GPT2 = {
    "transformer.wte.weight": ("embedding", (1,)),
    "transformer.wpe.weight": ("embedding", (1,)),
    "transformer.h.0.attn.c_attn.weight": ("query, key, value", (0,)),  # Conv1D: [in, out]
    "transformer.h.0.attn.c_proj.weight": ("attention output", (1,)),
    "transformer.h.0.mlp.c_fc.weight": ("MLP", (1,)),
    "transformer.h.0.mlp.c_proj.weight": ("MLP", (1,)),
    "transformer.h.0.ln_1.weight": ("norm", ()),
    "transformer.h.0.mlp.c_fc.bias": ("vector", ()),
}
BERT = {
    "bert.embeddings.word_embeddings.weight": ("embedding", (1,)),
    "bert.encoder.layer.0.attention.self.query.weight": ("query, key", (1,)),
    "bert.encoder.layer.0.attention.self.key.weight": ("query, key", (1,)),
    "bert.encoder.layer.0.attention.self.value.weight": ("value", (0,)),
    "bert.encoder.layer.0.attention.output.dense.weight": ("attention output", (0,)),
    "bert.encoder.layer.0.intermediate.dense.weight": ("MLP", (0,)),
    "bert.encoder.layer.0.output.dense.weight": ("MLP", (0,)),
    "bert.encoder.layer.0.output.LayerNorm.weight": ("norm", ()),
    "cls.predictions.transform.dense.weight": ("no match", ()),
}
LLAMA = {
    "model.layers.0.self_attn.q_proj.weight": ("query, key", (1,)),
    "model.layers.0.self_attn.v_proj.weight": ("value", (0,)),
    "model.layers.0.self_attn.o_proj.weight": ("attention output", (0,)),
    "model.layers.0.mlp.gate_proj.weight": ("MLP", (0,)),
    "model.layers.0.mlp.down_proj.weight": ("MLP", (0,)),
    "model.layers.0.input_layernorm.weight": ("norm", ()),
    "lm_head.weight": ("head", (1,)),
}


@pytest.mark.parametrize(("name", "expected"), [("gpt2", GPT2), ("bert", BERT), ("llama", LLAMA)])
def test_static_rules(name: str, expected: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    model = TINY[name].build()
    rules = static_rules(model).rules
    assert rules.keys() == dict(model.named_parameters()).keys()
    assert {n: (rules[n].role, rules[n].dims) for n in expected} == expected


def test_static_rules_of_torchs_own_transformer() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    rules = static_rules(layer).rules
    assert {n: r.dims for n, r in rules.items() if r.dims} == {
        "self_attn.in_proj_weight": (1,),
        "self_attn.out_proj.weight": (0,),
        "linear1.weight": (0,),
        "linear2.weight": (0,),
    }


def test_printed_rules_say_what_was_matched_and_what_was_not() -> None:
    text = str(static_rules(TINY["bert"].build()))
    assert "mean over [1], query, key: bert.encoder.layer.*.attention.self.query.weight × 2" in text
    assert "full, no match: cls.predictions.transform.dense.weight" in text
    assert "norms and vectors" in text


def test_rules_file(tmp_path: Path) -> None:
    rules = static_rules(TINY["gpt2"].build())
    file = tmp_path / "rules.json"
    rules.save(file)
    assert SlimRules.load(file) == rules
    for text in ("", "{", '{"source": "static"}', '{"source": "x", "rules": {}}'):
        file.write_text(text)
        with pytest.raises(RulesFileError, match=r"rules\.json"):
            SlimRules.load(file)


def test_when_it_is_measured() -> None:
    assert [s for s in range(1, 4001) if is_due(s)] == [1, *range(100, 1001, 100), 2000, 3000, 4000]


def test_what_is_measured() -> None:
    assert candidates((4, 3)) == [(0,), (1,), (0, 1)]
    assert candidates((4, 3, 2, 2)) == [(0,), (1, 2, 3), (0, 1, 2, 3)]
    assert candidates((4, 1)) == [(0,), (0, 1)]
    assert candidates((4,)) == []


def test_the_ratio() -> None:
    v = torch.tensor([[1.0, 3.0], [2.0, 6.0]])
    assert snr(v, (1,)) == pytest.approx(4.0)  # means 2 and 4, variances 1 and 4
    assert snr(v, (0,)) == pytest.approx((1.5**2 / 0.25 + 4.5**2 / 2.25) / 2)
    assert snr(v, (0, 1)) == pytest.approx(9 / 3.5)
    assert snr(v * 1e-30, (1,)) == pytest.approx(4.0)
    assert snr(torch.ones(3, 3), (0,)) == CEILING


def test_rows_that_saw_no_gradient_do_not_count() -> None:
    v = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    assert snr(v, (1,)) == pytest.approx(4.0)
    assert snr(torch.zeros(2, 2), (1,)) == 0.0


@pytest.mark.parametrize(
    "make",
    [
        lambda m: AdamA(m.parameters()),
        lambda m: AdamA(m.parameters(), mode="accumulate", micro_batches=2),
        lambda m: torch.optim.AdamW(m.parameters()),
    ],
    ids=["release", "accumulate", "torch"],
)
def test_a_measured_run(make: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
    """v is that of the steps; the average is over the measured ones."""
    model = mlp()
    weight = model.get_parameter("0.weight")
    optimizer = make(model)
    measurement = SnrMeasurement(model, optimizer)
    with pytest.raises(OptimizerError, match="step 1"):
        measurement.rules()
    seen: dict[tuple[int, ...], list[float]] = {k: [] for k in candidates((10, 6))}
    micro_batches = getattr(optimizer, "micro_batches", 1)
    for step in range(1, 201):
        for x in batches(micro_batches, seed=step):
            backward(model, x)
        optimizer.step()
        optimizer.zero_grad()
        if step in (1, 100, 200):
            for dims, ratios in seen.items():
                ratios.append(snr(optimizer.state[weight]["exp_avg_sq"], dims))
    measurement.stop()
    rules = measurement.rules()
    measured = rules.rules["0.weight"].snr
    assert measured == {",".join(map(str, k)): pytest.approx(sum(r) / 3) for k, r in seen.items()}
    best = max(seen, key=lambda k: sum(seen[k]))
    assert rules.rules["0.weight"].dims == (best if sum(seen[best]) > 3 else ())
    assert rules.rules["0.bias"] == MeanRule((), "vector", (10,))
    SlimAdamA(model.named_parameters(), rules)


def test_norms_and_unused_parameters_are_not_measured() -> None:
    model = nn.ModuleDict(
        {"a": nn.Linear(4, 4), "norm": nn.LayerNorm((4, 4)), "b": nn.Linear(4, 4)}
    )
    optimizer = AdamA(model.parameters())
    measurement = SnrMeasurement(model, optimizer)
    (model["norm"](model["a"](torch.randn(4, 4))) ** 3).sum().backward()
    optimizer.step()
    rules = measurement.rules().rules
    assert rules["norm.weight"] == MeanRule((), "norm", (4, 4))
    assert rules["b.weight"] == MeanRule((), "measured", (4, 4))
    assert rules["a.weight"].snr.keys() == {"0", "1", "0,1"}


def test_moments_in_8_bits_are_decoded() -> None:
    """Of codes the ratio was measured as if they were numbers: each counted about alike."""
    ratios = []
    for dtype in (None, "int8"):
        model = mlp()
        optimizer = AdamA(model.parameters(), state_dtype=dtype)
        measurement = SnrMeasurement(model, optimizer)
        backward(model, *batches(1, seed=1))
        optimizer.step()
        ratios.append(measurement.rules().rules["0.weight"].snr)
    assert ratios[1] == pytest.approx(ratios[0], rel=0.05)
