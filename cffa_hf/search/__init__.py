"""Search: a gallery of images, embedded once and ranked by sentences."""

from cffa_hf.search.gallery import Gallery, SearchResult

__all__ = [
    "Gallery",
    "SearchResult",
]
