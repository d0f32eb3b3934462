"""The same for people.

Read tables.py, charts.py and pictures.py (one thing each), split_figures.py (all figures of a split), report.py
(everything on one page).
"""

from cffa_hf.reporting.report import write_report
from cffa_hf.reporting.split_figures import draw_figures

__all__ = [
    "draw_figures",
    "write_report",
]
