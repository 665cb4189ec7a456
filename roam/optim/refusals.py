"""Makes the optimizers' errors and warnings, whose texts tell the user what to do instead.

The functions return the errors and warnings; their callers raise and show them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from roam.core.errors import (
    ClippingWarning,
    DataParallelError,
    GradScalerError,
    HyperparameterError,
    LateChangeWarning,
    LostParameterError,
    MicroBatchError,
    MidBatchError,
    OptimizerCopyError,
    SecondBackwardError,
    SparseGradientError,
    UnsummedWarning,
)


def second_backward(parameter: str, micro_batches: int, releases: bool) -> SecondBackwardError:
    way_out = (
        "Call step() after every backward; to accumulate, use mode='accumulate'."
        if releases
        else f"Call step() after {micro_batches} backwards (micro_batches)."
    )
    return SecondBackwardError(
        f"{parameter} has its gradient of this mini-batch already. {way_out}"
    )


def sparse(parameter: str, optimizer: str) -> SparseGradientError:
    return SparseGradientError(
        f"{parameter} has a sparse gradient, and {optimizer} folds dense ones: "
        "nn.Embedding(sparse=False), or another optimizer for this parameter"
    )


def data_parallel(optimizer: str) -> DataParallelError:
    return DataParallelError(
        f"DistributedDataParallel would sum gradients that {optimizer} has folded before: every "
        "rank would train on its own. Two ways work, both without DistributedDataParallel: "
        f"{optimizer}(process_group=..., mode='accumulate'), which combines states once a "
        "mini-batch, and fully_shard (FSDP2), which sums each gradient before its fold. Or keep "
        "DistributedDataParallel, and use torch.optim.AdamW."
    )


def release_only(rule: str, reason: str) -> HyperparameterError:
    """Returns the error for a rule that cannot fold several gradients before it updates.

    Args:
        rule: the name of the rule's class.
        reason: why the rule works in mode "release" only.
    """
    return HyperparameterError(
        f"{rule} cannot accumulate: {reason}. Use mode='release', with larger batches or, for "
        "batches as small, slower decay rates (β2 to the power of small / large batch)."
    )


def other_states(parameter: str, reason: object) -> HyperparameterError:
    """Returns the error for changed values of a group that do not fit a parameter's states.

    Args:
        parameter: the names of the group and of the parameter, as one text.
        reason: which state does not fit, and why.
    """
    return HyperparameterError(
        f"{parameter}: with the values that this group has now, {reason}. Set the values back; or "
        "`optimizer.state.pop(p)` for each parameter p of the group, which begins anew; or make "
        "another optimizer"
    )


def unclipped(rule: str) -> HyperparameterError:
    return HyperparameterError(
        f"max_norm with mode='accumulate' clips by the momentum, and {rule} has none whose length "
        "matters: leave it out"
    )


def ranks_release() -> HyperparameterError:
    return HyperparameterError(
        "process_group with mode='release', which updates the parameters in the backward, by one "
        "rank's gradients: use mode='accumulate' (micro_batches=1 will do)"
    )


def ranks_stored() -> HyperparameterError:
    return HyperparameterError(
        "process_group with states in a file: they are combined over the ranks in memory. Leave "
        "out 'states' of the option offload, or process_group"
    )


def alone(rule: str) -> HyperparameterError:
    return HyperparameterError(
        f"process_group: nothing is known of how states of {rule} with these values are combined "
        "over ranks. AdamA, AdamW, SlimAdamA, AdamMini, GaLore, Lion, SGD, Muon and Scion can "
        "be; or sum gradients before the fold: fully_shard (FSDP2)"
    )


def unfinished(done: int, micro_batches: int) -> MicroBatchError:
    return MicroBatchError(
        f"step() after {done} of {micro_batches} micro-batches. Run the others first; if a "
        "mini-batch has fewer (the last of an epoch), set optimizer.micro_batches before its first "
        "backward, or drop it with DataLoader(drop_last=True)."
    )


def mid_batch(what: str) -> MidBatchError:
    return MidBatchError(
        f"{what} in the middle of a mini-batch: gradients were folded since the last step()"
    )


def copied(optimizer: str) -> OptimizerCopyError:
    return OptimizerCopyError(
        f"{optimizer} folds the gradients of its own parameters: it can be neither pickled nor "
        "copied alone. Copy it with its model, copy.deepcopy((model, optimizer)), or make another "
        "one and load the state_dict(), which is also what to save"
    )


def handle(attribute: str) -> OptimizerCopyError:
    return OptimizerCopyError(
        f"no {attribute!r} here: this is the handle of an optimizer that was copied without its "
        "model, as a part of something else. Only the options of torch.compile can use a handle. "
        "Copy the model with the optimizer, and before it: copy.deepcopy((model, optimizer))"
    )


def grad_scaler(optimizer: str) -> GradScalerError:
    return GradScalerError(
        f"{optimizer} folds gradients during the backward: there are none left that a GradScaler "
        "could unscale. Train in bfloat16, which needs no scaling."
    )


def lost(parameter: str) -> LostParameterError:
    return LostParameterError(
        f"{parameter} was given to a newer optimizer, which folds its gradients now: drop this one"
    )


def late_change(optimizer: str, names: Iterable[str], left: Collection[str]) -> LateChangeWarning:
    """Returns the warning for groups that were edited between a backward and its step().

    Args:
        optimizer: the name of the optimizer's class.
        names: the names of the groups' values that changed, such as "lr".
        left: the names of the parameters that left the groups.
    """
    what = [f"{', '.join(sorted(names))} of a group changed"] if names else []
    what += [f"{', '.join(left)} left the groups"] if left else []
    return LateChangeWarning(
        f"{' and '.join(what)} between a backward and its step(): {optimizer} has folded the "
        "gradients in the backward, by what the groups said then. Change groups, and call "
        "scheduler.step(), after step() or before the backward."
    )


def clipping(optimizer: str) -> ClippingWarning:
    return ClippingWarning(
        f"asked to clip or to measure gradients that {optimizer} has folded in the backward: they "
        f"are not clipped, and count as nothing in the norm. {optimizer}(max_norm=1.0) clips in "
        "the fold, and roam.compile_step clips as torch does."
    )


def unsummed(optimizer: str, ranks: int) -> UnsummedWarning:
    return UnsummedWarning(
        f"{ranks} ranks, and {optimizer} folds each one's gradients in its backward: if they train "
        "one model and sum gradients afterwards, there are none to sum, and every rank trains on "
        f"its own. Use {optimizer}(process_group=..., "
        "mode='accumulate'), fully_shard (FSDP2), or a hook on each parameter that sums before the "
        "fold, p.register_hook(lambda g: all_reduced(g)). Otherwise use torch.optim.AdamW."
    )
