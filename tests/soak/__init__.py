"""Long runs: memory, files, threads and processes must stay flat; `make soak` runs all of them.

Read `judging` (what is measured, and what counts as a leak), then `work` (what runs), `running` and `__main__`.
"""
