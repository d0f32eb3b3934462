"""The settings of the service, checked once."""

import ipaddress
from dataclasses import dataclass, field

from cffa_hf.errors import InputError
from cffa_hf.service.messages import MAX_QUERIES


@dataclass(frozen=True)
class ServiceSettings:
    """How the service admits requests and batches their queries.

    Args:
        keys: Any of them opens the service; none: it is open to whoever reaches it.
        batch_size: Sentences and images encoded together.
        gather_milliseconds: How long the first query of a batch waits for others.
        queue_size: Sentences and images that may wait; more are refused with status 503.
        deadline_seconds: A request that is not answered by then gets status 503.
        requests_per_minute: Of one client, which may come all at once; more are refused with status 429. 0: no limit.
        local_names_only: Refuse requests for another host name than this machine's own, which web pages in a browser of
            this machine could be made to send; for a service without keys on the loopback interface.

    Raises:
        InputError: If a setting is out of its range.
    """

    keys: tuple[str, ...] = field(default=(), repr=False)
    batch_size: int = 32
    gather_milliseconds: float = 8.0
    queue_size: int = 128
    deadline_seconds: float = 10.0
    requests_per_minute: int = 600
    local_names_only: bool = False

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("batch_size", 1, 1024),
            ("gather_milliseconds", 0, 1000),
            ("queue_size", MAX_QUERIES, 100_000),
            ("deadline_seconds", 0.1, 600),
            ("requests_per_minute", 0, 1_000_000),
        ):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise InputError(f"{name} is {value}; it must lie between {lowest:,} and {highest:,}.")


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address.

    Example:
        >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0")]
        [True, True, True, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
