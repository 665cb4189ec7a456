"""Machines that are not at hand, described by what is published of them.

A plan for one of them is simulated: ops take what a roofline says, transfers what their tier moves.
Datasheets state peaks that no step reaches. Where ops are taken to be faster than they are, less
time is left to hide transfers in, so that what is planned without a stall has none.
"""

from __future__ import annotations

from dataclasses import dataclass

from roam.core.errors import OptionError
from roam.core.machine import Rates, Seconds

CALL: Seconds = 4e-6  # of a kernel, as of a usual accelerator


@dataclass(frozen=True)
class Machine:
    """A machine, and the tier to which it moves tensors.

    Attributes:
        name: for reports.
        device: the type of the device that computes.
        rates: how fast that is.
        write: bytes a second that go to the tier.
        read: bytes a second that come back.
    """

    name: str
    device: str
    rates: Rates
    write: float
    read: float

    def rates_of(self, device: str) -> Rates:
        """Returns the rates of an op, wherever it was captured: all run on the one device."""
        return self.rates

    @staticmethod
    def of(given: str | Machine) -> Machine:
        """Returns a machine by its name. Raises OptionError for a name that is not known."""
        if isinstance(given, Machine):
            return given
        if given not in MACHINES:
            raise OptionError(
                f"no machine {given!r} is described: there are {', '.join(MACHINES)}; or describe "
                "one as a roam.Machine"
            )
        return MACHINES[given]


# Intel's specification of the Optane P5800X (800 GB): 6.1 GB/s written and 7.2 GB/s read in
# sequence. SSDTrain (arXiv 2408.10013) has seven in two RAID0 arrays, one a GPU: the smaller one is
# taken here, since its rates are below those of PCIe 4.0 with 16 lanes.
P5800X_WRITE, P5800X_READ = 6.1e9, 7.2e9
ARRAY = 3


def _a100(name: str, flops: float) -> Machine:
    """An A100 PCIe 40 GB: 1,555 GB/s and 19.5 TFLOPS in float32, by its datasheet."""
    products = {"float32": 19.5e12, "float16": flops, "bfloat16": flops}
    rates = Rates(products, bandwidth=1.555e12, call=CALL)
    return Machine(name, "cuda", rates, ARRAY * P5800X_WRITE, ARRAY * P5800X_READ)


# An H200 SXM: 989 TFLOPS dense in 16 bits, 67 in float32 and 4.8 TB/s, by its datasheet. Its tier
# is the memory of its host, over PCIe 5.0 with 16 lanes, of whose 64 GB/s copies reach about 55.
H200 = Rates({"float32": 6.7e13, "float16": 9.89e14, "bfloat16": 9.89e14}, 4.8e12, CALL)

MACHINES = {
    machine.name: machine
    for machine in (
        _a100("a100-ssdtrain", 1.25e14),  # what SSDTrain's authors reach, of products and all else
        _a100("a100-ssdtrain-peak", 3.12e14),  # the datasheet's
        Machine("h200", "cuda", H200, 5.5e10, 5.5e10),
    )
}
