"""Search: a gallery of images, embedded once and ranked by sentences, images or both.

Read results.py, filters.py (what metadata must hold), items.py (the images that a gallery holds), indexes/ (how they are
found), header.py (what belongs together), gallery.py, then folders.py and building.py (images -> gallery), saving.py and
old_formats.py.
"""

from cffa_hf.search.filters import parse_where
from cffa_hf.search.gallery import Gallery
from cffa_hf.search.results import ColumnSummary, SearchResult

__all__ = [
    "ColumnSummary",
    "Gallery",
    "SearchResult",
    "parse_where",
]
