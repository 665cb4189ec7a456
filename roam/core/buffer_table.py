"""The buffers of a Problem as arrays, so that numpy looks at all of them in one operation.

A graph of 100,000 ops is measured dozens of times while it is planned: buffer by buffer, each time
takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roam.core.parts import Buffer, OpId, Tier

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class BufferTable(NamedTuple):
    """Facts about the buffers, by buffer.

    Attributes:
        size: bytes.
        maker: the op that creates it; -1 for the user's own.
        made: whether the step creates it.
        dies: whether it dies within the step: the step creates it, and the user does not keep it.
        on_device: whether its bytes lie in the memory of the device.
        uses: the makers and users of all buffers, one buffer after another.
        first_use: where the maker and users of the buffer begin in `uses`. A buffer that the step
            does not create begins with op 0, so that none is empty.
    """

    size: Ints
    maker: Ints
    made: Mask
    dies: Mask
    on_device: Mask
    uses: Ints
    first_use: Ints


def make_buffer_table(
    buffers: Sequence[Buffer], maker: Sequence[OpId | None], users: Sequence[Sequence[OpId]]
) -> BufferTable:
    """Returns the table of buffers, given the ops that create and use each."""
    makers = np.array([-1 if op is None else op for op in maker], np.int64)
    made = makers >= 0
    kept = np.array([b.kept for b in buffers], bool)
    starts = list(accumulate((1 + len(ops) for ops in users), initial=0))
    firsts = np.maximum(makers, 0).tolist()
    uses = chain.from_iterable((first, *ops) for first, ops in zip(firsts, users, strict=True))
    return BufferTable(
        size=np.array([b.size for b in buffers], np.int64),
        maker=makers,
        made=made,
        dies=made & ~kept,
        on_device=np.array([b.tier is Tier.DEVICE for b in buffers], bool),
        uses=np.fromiter(uses, np.int64, starts[-1]),
        first_use=np.array(starts[:-1], np.int64),
    )
