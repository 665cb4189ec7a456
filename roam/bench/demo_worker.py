"""The process of one contender of `roam demo`: trains, measures, and reports.

Reads one Job as JSON from stdin. Writes messages to stdout, one JSON object a line: a Step after
every step, and an Outcome at the end. Output of libraries goes to stderr.
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

# Step 0 compiles and makes the optimizer's states. Steps WHOLE and PASSES measure memory, which
# slows them down. Step times are taken from step UNTIMED on.
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
    threads: int | None = None  # None: torch's own choice

    @property
    def tokens(self) -> int:
        """The number of tokens in a step."""
        return self.batch * self.seq


class Job(msgspec.Struct, frozen=True):
    """The task of a worker.

    contender: `eager`, the name of a torch.compile backend, or `roam` and a lowering.
    """

    settings: Settings
    contender: str
    out: str


class Step(msgspec.Struct, frozen=True, tag="step"):
    """A message after each step.

    peak: bytes of the whole loop iteration; None before the step that measures it.
    """

    loss: float
    seconds: float
    peak: int | None


class Outcome(msgspec.Struct, frozen=True, tag="outcome", kw_only=True):
    """The figures of a contender. All bytes but `resident` are above what was allocated before.

    Attributes:
        planned: bytes of the peak of forward and backward by roam's plan.
        passes: measured bytes of forward and backward.
        whole: measured bytes of zero_grad, forward, backward and step.
        resident: the most bytes that the process had resident, the compiler included.
        seconds: of the median step.
        first: seconds of the first step, with compilation.
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
    """Trains a contender. The seed alone decides weights and batches."""
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
    # transformers takes this by default, with a warning, which would break the graph in two
    model.loss_type = "ForCausalLM"  # type: ignore[assignment]
    return model.train()


def _batches(settings: Settings) -> list[Tensor]:
    """Returns one batch a step, each of shape (batch, seq), int64."""
    import torch

    data = torch.frombuffer(bytearray(text(2**22)), dtype=torch.uint8)
    chance = torch.Generator().manual_seed(settings.seed)
    batches = []
    for _ in range(settings.steps):
        starts = torch.randint(len(data) - settings.seq, (settings.batch, 1), generator=chance)
        batches.append(data[starts + torch.arange(settings.seq)].long())
    return batches


def _planned(job: Job) -> int | None:
    """Returns the peak of roam's largest graph in bytes. Writes the plan of the contender "roam".

    Raises UnplannableError if the backend planned nothing.
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
    """Writes the plan as JSON and as a page, and a picture of its largest graph."""
    from roam.inspect.picture import picture

    write_file(out / "plan.json", step.to_json())
    write_file(out / "plan.html", step.html)
    picture(problem, plan, out / "plan.svg")
    picture(problem, plan, out / "plan.png")


def main() -> None:
    """Runs a Job. Reports any error as an Outcome, with a traceback on stderr."""
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
    """Returns stdout for the messages, and redirects all other output to stderr."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return channel


if __name__ == "__main__":
    main()
