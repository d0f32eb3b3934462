"""Signal handling of the processes that load data: the main process handles SIGTERM and SIGINT alone."""

import os
import signal
import threading
from collections.abc import Callable


class SignalsLeftToMain:
    """A `worker_init_fn` that makes a loading process ignore SIGTERM and SIGINT, which reach whole process groups.

    Otherwise the loaders die first, and the main process with them, before it can save. A SIGTERM from the main process
    itself still ends them. Where the sender of a signal cannot be known (macOS), only SIGINT is ignored.

    Args:
        then: Another `worker_init_fn` to call.
    """

    def __init__(self, then: Callable[[int], None] | None = None) -> None:
        self.then = then
        self.main_process = os.getpid()

    def __call__(self, worker_id: int) -> None:
        """Prepare the process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, "sigwaitinfo"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=self._wait_for_main, daemon=True).start()
        if self.then is not None:
            self.then(worker_id)

    def _wait_for_main(self) -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != self.main_process:
            continue
        os._exit(0)
