"""What the fork server of `tests.processes` imports once: everything that `run_train.py` needs."""

import cffa_hf.data.image_cache
import cffa_hf.training.lora
import cffa_hf.training.trainer  # noqa: F401
