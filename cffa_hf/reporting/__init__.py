"""Results for readers: tables, charts, figures and an HTML report.

Read tables.py and sections.py, charts.py and pictures.py, split_figures.py (all figures of a split), report.py (the HTML
page).
"""

from cffa_hf.reporting.report import write_report
from cffa_hf.reporting.split_figures import draw_figures

__all__ = [
    "draw_figures",
    "write_report",
]
