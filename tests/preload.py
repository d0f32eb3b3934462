"""What the fork server of `tests.processes` imports once: everything that `run_train.py` needs."""

import cffa_hf.adapters
import cffa_hf.data.image_cache
import cffa_hf.trainer  # noqa: F401
