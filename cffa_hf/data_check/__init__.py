"""All problems of a dataset at once, and a copy of it without them.

Read findings.py (a problem, a report), opening.py (rows, by the readers of `cffa_hf.data`), row_findings.py and
image_findings.py (what is looked for), checking.py (`check_dataset`), raw_files.py (annotation files as they are, to be
written again) and fixing.py (`write_fixed`).
"""

from cffa_hf.data_check.checking import check_dataset, find_place
from cffa_hf.data_check.findings import Finding, Report
from cffa_hf.data_check.fixing import Fixed, check_target, write_fixed

__all__ = ["Finding", "Fixed", "Report", "check_dataset", "check_target", "find_place", "write_fixed"]
