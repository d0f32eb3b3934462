"""A synthetic dataset: rendered people with generated captions, in the on-disk layouts of the benchmarks."""

from cffa_hf.demo.oracle import oracle_ranks
from cffa_hf.demo.write import write_demo_dataset

__all__ = ["oracle_ranks", "write_demo_dataset"]
