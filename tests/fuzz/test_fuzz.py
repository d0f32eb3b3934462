"""A quick share of the fuzzer, with fixed seeds; `make fuzz` runs it for an hour."""

import pytest

from tests.fuzz.cases import Outcome, _judge, run_cases
from tests.fuzz.targets import TARGETS

CASES = 20
MADE_ANEW = {"cache of rows", "cache of token ids"}
"""Most damage to them nobody hears of, since it is made good."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [target.name for target in TARGETS])
def test_damaged_files_end_well_or_in_one_sentence(name):
    outcomes = list(run_cases(name, range(CASES)))
    assert len(outcomes) == CASES
    assert [outcome for outcome in outcomes if outcome.failed] == []
    assert name in MADE_ANEW or any(outcome.verdict == "refused" for outcome in outcomes)


@pytest.mark.parametrize("sentence", ["x" * 600 + ".", "One.\nTwo.", "No stop", "\ud800."])
def test_what_is_no_sentence_counts_as_a_bug(sentence):
    assert Outcome("", 0, "", _judge(sentence, "/folder")).failed
