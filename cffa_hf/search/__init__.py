"""Search: a gallery of images, embedded once and ranked by sentences, images or both.

Read results.py, filters.py (what metadata must hold), items.py (the images that a gallery holds), indexes/ (how they are
found), header.py and parts.py (what belongs together), saving.py and old_formats.py, folders.py and building.py (images
-> gallery), sentences.py and gallery.py.
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
