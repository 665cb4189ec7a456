"""Every error that roam raises: one class each, naming the offender and the way out."""


class RoamError(Exception):
    """The base of them all: `except roam.RoamError` catches whatever roam raises."""


class OptionError(RoamError, ValueError):
    """An option or mode of the backend that does not exist, or has a wrong value."""


class RewriteError(RoamError, RuntimeError):
    """A rewrite of saved tensors that raises, or makes something unlike what it replaces.

    rewrite: the rewrite.
    """

    def __init__(self, message: str, rewrite: object) -> None:
        super().__init__(message)
        self.rewrite = rewrite


class BudgetError(RoamError, ValueError):
    """A budget within which no plan or schedule was found. The message names the ways out.

    Attributes:
        budget: the bytes asked for; 0 if they are not known.
        found: the smallest bytes that were found; None if nothing was searched.
        least: bytes that are proven to be needed.
    """

    def __init__(
        self, message: str, *, budget: int = 0, found: int | None = None, least: int = 0
    ) -> None:
        super().__init__(message)
        self.budget, self.found, self.least = budget, found, least


class BudgetFormatError(OptionError):
    """A budget that is no size, no percentage up to 100 and not "auto"."""


class ProblemError(RoamError, ValueError):
    """A Problem that describes no program."""


class CycleError(ProblemError):
    """Ops that wait for one another."""


class SizeError(ProblemError):
    """A size, scratch space, cost, phase or alignment that is out of its range."""


class ReadBeforeWriteError(ProblemError):
    """A buffer is used before an op makes it, or made twice."""


class UnknownReferenceError(ProblemError):
    """An op names a buffer or an op that the problem does not have."""


class DuplicateNameError(ProblemError):
    """Two buffers, or two ops, of the same name."""


class UnpairedTransferError(ProblemError):
    """A transfer without its start or its wait, or whose wait comes first."""


class PlanError(RoamError, ValueError):
    """A Plan that is not valid for its Problem."""


class EditError(PlanError):
    """An edit that would change what a step computes, or that names what the problem lacks."""


class OrderError(PlanError):
    """An order that misses, repeats or misplaces an op."""


class OverlapError(PlanError):
    """Two buffers that live at the same time at the same address."""


class OffsetError(PlanError):
    """A buffer outside its block, misaligned, or placed where it has no business."""


class ReuseError(PlanError):
    """A buffer written over another that is still needed, or may not be."""


class FigureError(PlanError):
    """A plan that states a peak, bound or total that is not so."""


class FileFormatError(RoamError, ValueError):
    """A plan or problem file that is truncated or no such file at all."""


class FileVersionError(FileFormatError):
    """A plan or problem file written by another version of the format."""


class FileWriteError(RoamError, OSError):
    """A file that could not be written: what was there before is untouched."""


class MissingCostError(FileFormatError):
    """A graph file with a node whose bytes or time nobody can tell."""


class GraphMismatchError(RoamError, ValueError):
    """A plan that belongs to another graph."""


class UnplannableError(RoamError):
    """A graph that cannot be planned. The backend catches it, says so once, and runs unplanned."""


class WholeStepError(RoamError):
    """A step that, run as one graph, would train something else. compile_step catches it, says so
    once, and compiles the model alone."""


class ScheduleError(RoamError, ValueError):
    """A schedule that runs a node before what it reads, or that leaves a node out."""


class ShareFormatError(RoamError, ValueError):
    """A text that names no share, such as "80%", of at most 100 %."""


class MissingExtraError(RoamError, ImportError):
    """An optional package that is not installed; the message says what to install."""


class OfflineError(RoamError):
    """A model that cannot be planned without running it."""


class UnplannedStepError(RoamError):
    """A step whose memory nobody knows, since a graph of it has no plan."""


class MeasurementError(RoamError, RuntimeError):
    """A measurement inside of another one, or of a profiler's run."""


class FactoryError(RoamError):
    """A function named on the command line that makes nothing to plan."""


class SizeFormatError(RoamError, ValueError):
    """A text that names no number of bytes."""


class TierError(RoamError, OSError):
    """A folder in which no tensor can be kept: missing, in memory, read-only."""


class TierFullError(TierError):
    """A disk without room for the tensors that a plan moves there."""


class TransferError(RoamError, OSError):
    """A tensor that did not reach its tier, or did not come back from it as it was sent.

    Attributes:
        tensor: its name.
        direction: "write" or "read".
        folder: of the tier.
        offset: of the tensor's first byte in the tier's file.
        errno: what the system reported; None if the bytes are wrong, or never were transferred.
    """

    def __init__(
        self,
        message: str,
        *,
        tensor: str = "",
        direction: str = "",
        folder: str = "",
        offset: int = 0,
        errno: int | None = None,
    ) -> None:
        super().__init__(message)
        self.tensor, self.direction = tensor, direction
        self.folder, self.offset, self.errno = folder, offset, errno


class OptimizerError(RoamError):
    """An optimizer of roam.optim used in a way that would train something else."""


class HyperparameterError(OptimizerError, ValueError):
    """A mode that does not exist, or a hyperparameter or rule out of its range."""


class SecondBackwardError(OptimizerError, RuntimeError):
    """A gradient after the last one that the mini-batch has room for, without step()."""


class MicroBatchError(OptimizerError, RuntimeError):
    """step() before the last micro-batch."""


class MidBatchError(OptimizerError, RuntimeError):
    """Something that is only possible between two mini-batches."""


class SparseGradientError(OptimizerError, TypeError):
    """A sparse gradient."""


class GradScalerError(OptimizerError, RuntimeError):
    """A GradScaler, which expects gradients to be there after the backward."""


class DataParallelError(OptimizerError, RuntimeError):
    """DistributedDataParallel around parameters whose gradients are folded before it sums them."""


class LostParameterError(OptimizerError, RuntimeError):
    """A parameter that a newer optimizer folds."""


class RanksDifferError(OptimizerError, ValueError):
    """Ranks that train one model have different parameters."""


class GraphsDifferError(RoamError, RuntimeError):
    """Ranks that train one model compile different graphs, or with different options."""


class MissingRankError(RoamError, TimeoutError):
    """A rank that does not compile the graph that the other ranks of its group compile."""


class StateMismatchError(OptimizerError, ValueError):
    """A state dict of other parameters, or of an optimizer that needs other state."""


class RulesFileError(OptimizerError, ValueError):
    """A file of SlimAdam's rules that cannot be read as such."""


class OptimizerCopyError(OptimizerError, TypeError):
    """A pickled or deep-copied optimizer, which would fold no gradients."""


class UnplannedWarning(UserWarning):
    """A graph runs without a plan: the message names the op and the reason."""


class CutShortWarning(UserWarning):
    """A plan that the clock cut short, one of several ranks: another rank may have another plan."""


class OptimizerWarning(UserWarning):
    """The base of what an optimizer of roam.optim says once, and goes on."""


class LateChangeWarning(OptimizerWarning):
    """A learning rate or group changed after the backward had folded gradients by the old one."""


class ClippingWarning(OptimizerWarning):
    """Gradients were to be clipped or measured that the backward has folded."""


class UnsummedWarning(OptimizerWarning):
    """Several ranks, each of which folds gradients that nothing has summed."""
