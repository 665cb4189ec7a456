"""Facts about the hardware that a step runs on: one entry a type of device.

    machine.of("cuda").alignment        512
    machine.of("cuda:1") is machine.CUDA

What differs between two machines of one type, the rates of arithmetic and of memory, is no entry of
the table. It is measured on the machine at hand (capture/rates.py) and kept as `Rates`. Choices
that must be the same on every machine go by `usual_rates`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

Bytes = int
Seconds = float

MIB = 2**20
SECTOR: Bytes = 512  # of a disk: what moves without a copy begins in the same place of one
PAGE: Bytes = 4096  # what lies in a file begins on one, which suits every disk


@dataclass(frozen=True)
class AllocatorModel:
    """The constants of PyTorch's caching allocator (c10/cuda/CUDACachingAllocator.cpp). Bytes.

    Attributes:
        round: every block is a multiple of it.
        small: the largest request of the small pool.
        small_segment: what the small pool asks the device for.
        large_segment: what the large pool asks for, if the request is below `own_segment`.
        own_segment: from here on a request gets a segment of its own size,
        own_segment_round: rounded up to a multiple of this.
    """

    round: Bytes = 512
    small: Bytes = MIB
    small_segment: Bytes = 2 * MIB
    large_segment: Bytes = 20 * MIB
    own_segment: Bytes = 10 * MIB
    own_segment_round: Bytes = 2 * MIB


@dataclass(frozen=True)
class Blocking:
    """What a device asks of the blocks that saved tensors lie in. Bytes.

    Attributes:
        stagger: left empty above a saved tensor of whole pages, so that neighbours do not begin at
            one place of their pages. If the limit has no room for it, the tensor stays outside.
        largest: size of the largest block, as far as the stack may be cut there.
        page: size of a page.
    """

    stagger: Bytes = 0
    largest: float = inf
    page: Bytes = 4096


ANY = Blocking()


@dataclass(frozen=True)
class Device:
    """One type of device.

    Attributes:
        alignment: every address that its allocator gives is a multiple of it. Bytes.
        blocking: what it asks of blocks.
        allocator: the model by which layouts are compared.
        huge_pages_from: bytes of the smallest block that the kernel is asked for huge pages under.
        fold_elements: elements that an optimizer's update works on at a time.
        loss_block: bytes of a block of rows that a loss works on at a time.
    """

    alignment: Bytes = 64
    blocking: Blocking = ANY
    allocator: AllocatorModel = AllocatorModel()
    huge_pages_from: float = inf
    fold_elements: int = 2**22  # enough to be worth a launch
    loss_block: Bytes = 4 * MIB


# glibc's DEFAULT_MMAP_THRESHOLD_MAX: malloc may serve a smaller request from its heap, whose pages
# stay; it maps a larger one anew every time, so that every page of it is a fault in every step
MALLOC_MAPS_FROM = 32 * MIB

CPU = Device(
    blocking=Blocking(
        stagger=1536,  # of neighbours, any eight lie at different places of their pages
        largest=MALLOC_MAPS_FROM - 2**16,  # with all that malloc adds it stays below
    ),
    huge_pages_from=MALLOC_MAPS_FROM,
    fold_elements=2**16,  # with what an update makes of them, few enough for a core's own cache
)
# malloc has no model of its own: layouts for a CPU are compared by the caching allocator's, too

CUDA = Device(alignment=512)

DEVICES: dict[str, Device] = {"cpu": CPU, "cuda": CUDA}
OTHER = Device()  # a type of device of which nothing is known

COARSEST: Bytes = max(device.alignment for device in DEVICES.values())  # suits every device


def of(device: str) -> Device:
    """Returns the facts about a type of device ("cuda") or one device of it ("cuda:1")."""
    return DEVICES.get(device.partition(":")[0], OTHER)


@dataclass(frozen=True)
class Rates:
    """How fast one device computes and moves bytes: a roofline, measured.

    Attributes:
        flops: floating-point operations a second of a matrix product, by the name of the dtype.
        bandwidth: bytes a second of a copy, those read and those written.
        call: seconds that an op takes if it does nothing.
    """

    flops: Mapping[str, float]
    bandwidth: float
    call: Seconds

    def seconds(self, nbytes: float, flops: float = 0.0, dtype: str = "float32") -> Seconds:
        """Returns the time of an op: its arithmetic or its memory traffic, whichever is longer.

        Args:
            nbytes: bytes that it reads and writes.
            flops: floating-point operations of its matrix products.
            dtype: of those products; if its rate is not among `flops`, float32's counts.
        """
        rate = self.flops.get(dtype, self.flops["float32"])
        return self.call + max(flops / rate, nbytes / self.bandwidth)


# A usual machine of a type, rounded: what is decided by these rates is the same everywhere. Of a
# CPU, two cores of a server with their part of its bandwidth; 40 operations for each element of
# float32 that is moved.
USUAL_CPU = Rates({"float32": 2e11}, bandwidth=2e10, call=1e-6)
USUAL_CUDA = Rates(
    {"float32": 5e13, "bfloat16": 5e14, "float16": 5e14}, bandwidth=2.5e12, call=4e-6
)
USUAL: Mapping[str, Rates] = {"cpu": USUAL_CPU}


def usual_rates(device: str) -> Rates:
    """Returns the rates of a usual device of a type; an accelerator's of a type not known."""
    return USUAL.get(device, USUAL_CUDA)
