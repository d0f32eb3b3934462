"""A rendered dataset of people who do not exist, in the on-disk layouts of the benchmarks."""

from cffa_hf.demo.oracle import oracle_rank1, oracle_ranks
from cffa_hf.demo.write import write_demo_dataset

__all__ = ["oracle_rank1", "oracle_ranks", "write_demo_dataset"]
