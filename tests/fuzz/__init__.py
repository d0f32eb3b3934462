"""Mutated files of real layouts: each ends well or in one sentence.

Read mutations.py (how a file is damaged), target.py, targets.py and product_targets.py (what is read, and from which
files), cases.py (one case, run and judged) and __main__.py (`make fuzz`: for an hour).
"""
