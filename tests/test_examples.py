"""The examples in docstrings are run, and no public function of the numeric modules is without one."""

import doctest
import inspect
from importlib import import_module

import pytest

# Every public function and every loss of these has an example.
MODULES = (
    *("cffa_hf.losses", "cffa_hf.loss_terms", "cffa_hf.metrics.ranking", "cffa_hf.metrics.averages"),
    *("cffa_hf.metrics.significance", "cffa_hf.metrics.reranking"),
    *("cffa_hf.inputs.captions", "cffa_hf.inputs.processor", "cffa_hf.inputs.images", "cffa_hf.errors"),
)
WITHOUT = {
    # steps of the losses above them, parts of the terms, and functions of whole files or data sets
    "cffa_hf.losses": {"positive_similarity", "association_rows", "sum_of_divergences"},
    "cffa_hf.loss_terms": {"alignment_terms", "prediction_terms"},
    "cffa_hf.metrics.reranking": {"neighbour_shares"},
    "cffa_hf.inputs.processor": {"clip_tokenizer"},
    "cffa_hf.inputs.images": {"check_images", "escapes"},
    "cffa_hf.errors": {"explained", "plain_error"},
}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of(name):
    module = import_module(name)
    failures = []
    for case in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        result = doctest.DocTestRunner(verbose=False).run(case, out=failures.append)
        assert not result.failed, "".join(failures)


@pytest.mark.parametrize("name", MODULES)
def test_every_public_function_has_an_example(name):
    module = import_module(name)
    public = {
        key: value
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == name and not key.startswith("_")
    }
    missing = {key for key, value in public.items() if ">>>" not in (value.__doc__ or "")}
    assert missing == WITHOUT.get(name, set()) & public.keys()
