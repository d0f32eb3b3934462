"""The version of this package, in the one place from which the build and the model cards read it."""

VERSION = "0.1.0"
