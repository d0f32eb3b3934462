"""One interface, several indexes.

Read interface.py, exact.py (compares all) and faiss_index.py (one bit a dimension in memory, candidates ranked from disk).
"""

from cffa_hf.search.indexes.exact import ExactIndex
from cffa_hf.search.indexes.faiss_index import FaissIndex
from cffa_hf.search.indexes.interface import VectorIndex

__all__ = [
    "ExactIndex",
    "FaissIndex",
    "VectorIndex",
]
