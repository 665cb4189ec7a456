"""A token bucket: lets so many bytes a second pass.

Tests use it for a disk that is slower than the one at hand, and users to leave a disk to others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf

from roam.core.machine import Bytes, Seconds


class Pace:
    """Tokens that come at a rate, one for each byte, and are kept up to a burst.

    The state is one time: when the bucket will have no debt left. Without a burst, `n` bytes take
    at least `n / rate` seconds from when they could have begun, however long nothing was sent
    before.

    Args:
        rate: bytes a second; infinite for no limit.
        burst: the most tokens that are kept while nothing passes. Bytes.
        clock: tells the seconds.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        rate: float = inf,
        burst: Bytes = 0,
        *,
        clock: Callable[[], Seconds] = time.monotonic,
        sleep: Callable[[Seconds], object] = time.sleep,
    ) -> None:
        if not rate > 0 or burst < 0:
            raise ValueError(f"a pace of {rate} bytes a second with a burst of {burst} bytes")
        self.rate, self.burst = rate, burst
        self._clock, self._sleep = clock, sleep
        self._clear = -inf  # when the tokens of all that has passed will have come

    def now(self) -> Seconds:
        return self._clock()

    def begin(self, nbytes: Bytes, since: Seconds) -> None:
        """Takes the tokens of bytes that are about to be moved. Does not wait.

        since: when they could have begun. Tokens that have come since then are theirs, so that it
            costs nothing if the thread was kept from moving them.
        """
        if self.rate < inf:
            earliest = since - self.burst / self.rate
            self._clear = max(self._clear, earliest) + nbytes / self.rate

    def end(self) -> None:
        """Waits until the tokens of all that was begun have come."""
        if self.rate < inf and (left := self._clear - self._clock()) > 0:
            self._sleep(left)
