"""Layers and models as people build them, in every type and layout."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roam.capture import trials
from tests.helpers import (
    Compile,
    assert_counts,
    calls,
    check,
    compiler,
    grads,
    mlp,
    random,
    same,
    snapshot,
    total,
)

pytestmark = pytest.mark.usefixtures("everything_placed")


def conv_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 4, 3, padding=1),
        nn.AvgPool2d(3),
        nn.Flatten(),
    )


LAYERS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "batch norm": (conv_net, random(2, 3, 8, 8)),
    "batch norm, evaluating": (lambda: conv_net().eval(), random(2, 3, 8, 8)),
    "conv1d, grouped, transposed": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 6, 3, padding=1, groups=3), nn.GELU(), nn.ConvTranspose1d(6, 2, 3, 2)
        ),
        random(2, 3, 9),
    ),
    "conv2d, depthwise, transposed": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(3, 6, 3, 2, output_padding=1),
            nn.SiLU(),
            nn.Conv2d(6, 6, 3, groups=6),
        ),
        random(2, 3, 5, 5),
    ),
    "conv3d": (
        lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.ELU(), nn.MaxPool3d(2)),
        random(1, 2, 6, 6, 6),
    ),
    "upsampling": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2), nn.Conv2d(4, 1, 1)),
        random(2, 3, 5, 5),
    ),
    "norms": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.GroupNorm(2, 8),
            nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
            nn.Hardswish(),
            nn.Flatten(),
            nn.LayerNorm(72),
            nn.RMSNorm(72),
        ),
        random(2, 3, 5, 5),
    ),
    "padded embedding": (
        lambda: nn.Sequential(nn.Embedding(10, 4, padding_idx=1), nn.Linear(4, 4)),
        torch.tensor([[1, 2, 3], [4, 1, 9]]),
    ),
    "embedding bag": (lambda: nn.EmbeddingBag(10, 4), torch.tensor([[1, 2, 3], [4, 1, 9]])),
    "dropout": (
        lambda: nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.3), nn.Linear(16, 4), nn.Dropout(0.5)),
        random(5, 8),
    ),
    "transformer layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True),
        random(2, 5, 8),
    ),
    "bfloat16": (lambda: mlp().bfloat16(), random(5, 8).bfloat16()),
    "float64": (lambda: nn.Sequential(mlp(), nn.LayerNorm(4)).double(), random(5, 8).double()),
}


@pytest.mark.parametrize(("make", "x"), LAYERS.values(), ids=LAYERS.keys())
def test_layers(make: Callable[[], nn.Module], x: Tensor) -> None:
    check(make, x)


def test_a_transformer_layer_in_bfloat16() -> None:
    """Eager adds up the gradients of the residual stream in another order."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).bfloat16()
    check(lambda: copy.deepcopy(layer), random(2, 5, 8).bfloat16(), eager=False)


def test_bilinear_upsampling() -> None:
    """AOTAutograd takes it apart, so its bits are not those of eager."""
    check(calls(_enlarge, (3, 4)), random(2, 3, 5, 5), eager=False)


def _enlarge(w: Tensor, x: Tensor) -> Tensor:
    y = torch.einsum("bchw,cd->bdhw", x, w)
    return nn.functional.interpolate(y, scale_factor=2, mode="bilinear")


@pytest.mark.parametrize("weights", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("batch", [torch.contiguous_format, torch.channels_last], ids=str)
def test_channels_last(weights: torch.memory_format, batch: torch.memory_format) -> None:
    x = random(2, 3, 8, 8).to(memory_format=batch)
    check(lambda: conv_net().to(memory_format=weights), x)  # type: ignore[call-overload]


class Attention(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=dropout, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        return self.attention(x, x, x, attn_mask=mask)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("mask", [None, torch.ones(5, 5).triu(1) > 0], ids=["open", "masked"])
def test_multi_head_attention(mask: Tensor | None, dropout: float) -> None:
    check(lambda: Attention(dropout), random(2, 5, 8), mask)


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.cells = kind(8, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.read = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.cells(x)[0].relu()).sin()  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_dynamo_leaves_recurrent_nets_alone(kind: Callable[..., nn.Module]) -> None:
    check(lambda: Recurrent(kind), random(2, 4, 8), planned=0)


@torch._dynamo.config.patch(allow_rnn=True)
# AOTAutograd itself stumbles over the LSTM
@pytest.mark.slow
@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN])
def test_recurrent_nets_in_the_graph(kind: Callable[..., nn.Module]) -> None:
    check(lambda: Recurrent(kind), random(2, 4, 8))


@torch._dynamo.config.patch(allow_rnn=True)
def test_kernels_that_trust_their_workspace_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The LSTM's backward on the CPU would end the process, not raise: mostly, not always."""
    tried: list[Any] = []
    monkeypatch.setattr(trials, "_known", {})
    monkeypatch.setattr(trials, "_first", lambda call, variant: tried.append(call.target))
    with pytest.raises(AssertionError, match="tensors_saved_with_vc_check"):  # AOTAutograd's own
        compiler("step")(Recurrent(nn.LSTM))(random(2, 4, 8))
    assert_counts(planned=1)
    assert torch.ops.aten.mkldnn_rnn_layer.default in tried
    assert torch.ops.aten.mkldnn_rnn_layer_backward.default not in tried


def test_a_cell_in_a_loop() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(8, 6)

        def forward(self, x: Tensor) -> list[Tensor]:
            state: Any = None
            for column in x.unbind(1):
                state = self.cell(column, state)
            return list(state)

    check(Loop, random(2, 4, 8))


def test_tied_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 8)
            self.read = nn.Linear(8, 10, bias=False)
            self.read.weight = self.embed.weight

        def forward(self, i: Tensor) -> Tensor:
            return self.read(self.embed(i).sin())  # type: ignore[no-any-return]

    check(Tied, torch.tensor([1, 2, 3, 1]))


def test_dictionaries_in_and_out() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, batch: dict[str, Tensor]) -> dict[str, Any]:
            logits = self.net(batch["x"])
            return {"logits": logits, "nothing": None, "parts": (logits * 2, batch["i"] + 1)}

    check(Named, {"x": random(5, 8), "i": torch.arange(5)})


@pytest.mark.parametrize("inside", [False, True])
def test_autocast(inside: bool) -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = nn.Sequential(mlp(), nn.LayerNorm(4), nn.Linear(4, 4))

        def forward(x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=inside):
                return model(x)  # type: ignore[no-any-return]

        run = compile_(forward if inside else model)
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=not inside):
                out = run(random(5, 8))
            total(out.float()).backward()  # type: ignore[no-untyped-call]
            yield from [*snapshot(out), *grads(model)]

    same(scenario)


def test_model_compile_and_modules_of_a_model() -> None:
    """`model.compile()` and compiling blocks one by one are as good as torch.compile(model)."""

    def scenario(compile_: Compile) -> Iterator[Any]:
        model = nn.Sequential(mlp(), nn.Linear(4, 8), mlp())
        model[0], model[2] = compile_(model[0]), compile_(model[2])
        for _ in range(2):
            out = model(random(5, 8))
            total(out).backward()  # type: ignore[no-untyped-call]
            yield from [*snapshot(out), *grads(model)]

    same(scenario, planned=2)
    model = mlp()
    model.compile(backend="roam")
    assert model(random(5, 8)).shape == (5, 4)


def test_the_compiled_model_is_saved_and_loaded() -> None:
    model = compiler("keep")(mlp())
    total(model(random(5, 8))).backward()  # type: ignore[no-untyped-call]
    other = mlp()
    other.load_state_dict(model._orig_mod.state_dict())
    assert torch.equal(other(random(5, 8)), model(random(5, 8)))
