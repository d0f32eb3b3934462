"""A gallery of images, embedded once, that sentences rank."""

from cffa_hf.search.gallery import Gallery, SearchResult

__all__ = [
    "Gallery",
    "SearchResult",
]
