"""One contender of `roam demo` in a process of its own: trains, measures, and reports.

Reads one Job as JSON from stdin; writes one message as JSON a line to stdout: a Step after every
step, at the end an Outcome. What libraries print goes to stderr.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from roam.bench.children import resident_peak
from roam.bench.text_corpus import text
from roam.core.atomic_write import write_file
from roam.core.errors import MissingExtraError, UnplannableError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from roam.core.plan import Plan
    from roam.core.problem import Problem
    from roam.inspect.step_plan import StepPlan

# The first step compiles and makes the optimizer's states; the next two are measured, and slow
# for it. Times are taken from the steps that are left.
WHOLE, PASSES, UNTIMED = 1, 2, 3


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The model, the data and the loop; every contender gets the same. A byte is a token."""

    layers: int = 4
    heads: int = 8
    width: int = 256
    seq: int = 512
    batch: int = 4
    steps: int = 16
    vocab: int = 256
    dropout: float = 0.0
    rate: float = 1e-3
    seed: int = 0
    threads: int | None = None  # torch's own choice

    @property
    def tokens(self) -> int:
        """Tokens in a step."""
        return self.batch * self.seq


class Job(msgspec.Struct, frozen=True):
    """What a worker is to do. contender: `eager`, the name of a torch.compile backend, or `roam`
    and a lowering."""

    settings: Settings
    contender: str
    out: str


class Step(msgspec.Struct, frozen=True, tag="step"):
    """One step done. peak: bytes of the whole loop iteration, from the step that measures it on."""

    loss: float
    seconds: float
    peak: int | None


class Outcome(msgspec.Struct, frozen=True, tag="outcome", kw_only=True):
    """What a contender came to. Bytes are above what lay there before, but for `resident`.

    planned: the peak that roam's plan states for the forward and backward. passes: what they
    were measured to take. whole: zero_grad, forward, backward and step. resident: the process at
    its largest, compiler and all. seconds: the median step; first: the first, with compilation.
    """

    contender: str
    losses: list[float] = []
    planned: int | None = None
    passes: int = 0
    whole: int = 0
    resident: int = 0
    seconds: float = 0.0
    first: float = 0.0
    parameters: int = 0
    error: str = ""


Message = Step | Outcome


def train(job: Job, tell: Callable[[Message], None]) -> Outcome:
    """Trains from the seed, on batches that the seed alone decides."""
    import torch

    from roam.inspect.measure import measure_peak

    settings = job.settings
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    model = _gpt2(settings)
    parameters = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.rate)
    compiled = _compiled(model, job.contender)

    losses: list[float] = []
    seconds: list[float] = []
    whole = passes = 0
    for i, batch in enumerate(_batches(settings)):

        def forward_backward(batch: Tensor = batch) -> None:
            out = compiled(input_ids=batch, labels=batch, use_cache=False)
            out.loss.backward()
            losses.append(out.loss.item())

        def iteration(run: Callable[[], None] = forward_backward) -> None:
            optimizer.zero_grad()
            run()
            optimizer.step()

        start = time.perf_counter()
        if i == WHOLE:
            whole = measure_peak(iteration).peak
        elif i == PASSES:
            optimizer.zero_grad()
            passes = measure_peak(forward_backward).peak
            optimizer.step()
        else:
            iteration()
        seconds.append(time.perf_counter() - start)
        tell(Step(losses[-1], seconds[-1], whole or None))

    return Outcome(
        contender=job.contender,
        losses=losses,
        planned=_planned(job),
        passes=passes,
        whole=whole,
        resident=resident_peak(),
        seconds=statistics.median(seconds[UNTIMED:]),
        first=seconds[0],
        parameters=parameters,
    )


def _compiled(model: torch.nn.Module, contender: str) -> Callable[..., Any]:
    import torch

    if contender == "eager":
        return model
    backend, _, lowering = contender.partition(" ")
    return torch.compile(
        model, backend=backend, options={"lowering": lowering} if lowering else None
    )


def _gpt2(settings: Settings) -> torch.nn.Module:
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ModuleNotFoundError:
        raise MissingExtraError(
            "the demo needs transformers: pip install roam-planner[demo]"
        ) from None
    model: torch.nn.Module = GPT2LMHeadModel(
        GPT2Config(
            n_layer=settings.layers,
            n_head=settings.heads,
            n_embd=settings.width,
            n_positions=settings.seq,
            vocab_size=settings.vocab,
            resid_pdrop=settings.dropout,
            embd_pdrop=settings.dropout,
            attn_pdrop=settings.dropout,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    # what transformers falls back to with a warning, which would break the graph in two
    model.loss_type = "ForCausalLM"  # type: ignore[assignment]
    return model.train()


def _batches(settings: Settings) -> list[Tensor]:
    """One batch a step, each of shape (batch, seq), int64."""
    import torch

    data = torch.frombuffer(bytearray(text(2**22)), dtype=torch.uint8)
    chance = torch.Generator().manual_seed(settings.seed)
    batches = []
    for _ in range(settings.steps):
        starts = torch.randint(len(data) - settings.seq, (settings.batch, 1), generator=chance)
        batches.append(data[starts + torch.arange(settings.seq)].long())
    return batches


def _planned(job: Job) -> int | None:
    """The peak of roam's largest graph; the plan of "roam" is written.

    Raises UnplannableError when the backend planned nothing.
    """
    from roam.inspect.report import report

    if not job.contender.startswith("roam"):
        return None
    step = report().step
    if step.largest is None:
        raise UnplannableError(f"no graph was planned: {report()}")
    if job.contender == "roam":
        _write(step, *step.largest, Path(job.out))
    return step.largest[1].peak


def _write(step: StepPlan, problem: Problem, plan: Plan, out: Path) -> None:
    """Writes the plan, the same as a page, and a picture of its largest graph."""
    from roam.inspect.html import to_page
    from roam.inspect.picture import picture

    write_file(out / "plan.json", step.to_json())
    write_file(out / "plan.html", to_page(step))
    picture(problem, plan, out / "plan.svg")
    picture(problem, plan, out / "plan.png")


def main() -> None:
    """Whatever goes wrong ends in an Outcome that says so, and in a traceback on stderr."""
    channel = _take_stdout()
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)

    def tell(message: Message) -> None:
        channel.write(msgspec.json.encode(message).decode() + "\n")
        channel.flush()

    try:
        outcome = train(job, tell)
    except Exception as error:
        traceback.print_exc()
        first = str(error).strip().partition("\n")[0]
        outcome = Outcome(contender=job.contender, error=f"{type(error).__name__}: {first}")
    tell(outcome)


def _take_stdout() -> TextIO:
    """Keeps stdout for messages: whoever prints from now on prints to stderr."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return channel


if __name__ == "__main__":
    main()
