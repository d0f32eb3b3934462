"""The `evaluate` metric: a folder that `evaluate.load` reads and that can be published as a Space."""
