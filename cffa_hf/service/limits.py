"""How many requests one client may send."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

MOST_CLIENTS = 10_000


class RateLimiter:
    """A bucket of tokens for each client, that fills up again in a minute.

    Args:
        requests_per_minute: What a full bucket holds; 0: no limit.
        clock: Gives seconds that only grow.
    """

    def __init__(self, requests_per_minute: int, clock: Callable[[], float] = time.monotonic):
        self.capacity, self.clock = requests_per_minute, clock
        # Client -> tokens at a time; the client that was seen last is at the end.
        self.buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def seconds_to_wait(self, client: str) -> int:
        """Admit a request, or say in how many whole seconds the next one of this client is admitted.

        Args:
            client: Name of a key, or an address.

        Returns:
            0 if it is admitted.
        """
        if not self.capacity:
            return 0
        now = self.clock()
        tokens, before = self.buckets.pop(client, (float(self.capacity), now))
        tokens = min(float(self.capacity), tokens + (now - before) * self.capacity / 60)
        admitted = tokens >= 1
        self.buckets[client] = (tokens - 1 if admitted else tokens, now)
        if len(self.buckets) > MOST_CLIENTS:
            self.buckets.popitem(last=False)
        return 0 if admitted else max(1, math.ceil((1 - tokens) * 60 / self.capacity))
