"""Pairs -> weights.

Read run_data.py (the data), start.py (the model), batches.py and order.py (its batches and their order), trainer.py with
batch_loss.py and optimisation.py; consensus.py says which pairs count; distributed.py, gradient_cache.py, lora.py and
cpu_memory.py are ways to train elsewhere or with less; run_folder.py, saving.py, resume.py and resume_checks.py lose no
work; monitoring.py logs, printing.py prints; settings_search.py trains many times to find out with which settings.
"""

from cffa_hf.training.start import model_for, starting_model
from cffa_hf.training.trainer import CFFATrainer

__all__ = [
    "CFFATrainer",
    "model_for",
    "starting_model",
]
