"""The machine-readable records of trainings and evaluations.

Read run.py (run.json), results.py (results.json), environment.py (versions and devices), files.py (folders, and JSON
that is read back).
"""

from cffa_hf.records.files import make_output_folder, read_record
from cffa_hf.records.results import set_aside_results, shared_sentence, write_results
from cffa_hf.records.run import write_run_record

__all__ = [
    "make_output_folder",
    "read_record",
    "set_aside_results",
    "shared_sentence",
    "write_results",
    "write_run_record",
]
