import hashlib

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cffa_hf.data.caption_noise import CAPTION_PERSONS, CaptionNoise, draw_permutation, matched_pairs, with_captions_of
from cffa_hf.data.pairs import PairDataset
from cffa_hf.errors import InputError
from cffa_hf.inputs.processor import train_tokenizer
from tests.tiny import person_rows

SMALL = settings(max_examples=50, deadline=None)


def split(counts, persons=None):
    """Rows with so many captions each; a caption says which image and which caption it is."""
    persons = list(range(len(counts))) if persons is None else persons
    captions = [[f"{row}-{number}" for number in range(count)] for row, count in enumerate(counts)]
    return datasets.Dataset.from_dict(
        {"captions": captions, "person_id": persons, "camera": [f"c{row}" for row in range(len(counts))]}
    )


@SMALL
@given(pairs=st.integers(0, 200), rate=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 5))
def test_a_rate_is_a_permutation_of_that_many_places(pairs, rate, seed):
    permutation = draw_permutation(pairs, rate, seed)
    assert permutation.dtype == np.int64
    assert np.array_equal(np.sort(permutation), np.arange(pairs))
    assert (permutation != np.arange(pairs)).sum() <= int(rate * pairs)
    assert np.array_equal(permutation, draw_permutation(pairs, rate, seed))


def test_a_rate_moves_nearly_all_of_its_places_and_a_seed_others():
    first, second = (draw_permutation(10_000, 0.5, seed) for seed in (0, 1))
    for permutation in (first, second):
        assert 4_980 <= (permutation != np.arange(10_000)).sum() <= 5_000
    assert not np.array_equal(first, second)
    assert np.array_equal(draw_permutation(100, 0.0, 3), np.arange(100))


@SMALL
@given(data=st.data(), counts=st.lists(st.integers(1, 4), min_size=1, max_size=12))
def test_captions_move_and_all_else_stays(data, counts):
    persons = data.draw(st.lists(st.integers(0, 3), min_size=len(counts), max_size=len(counts)))
    rows = split(counts, persons)
    permutation = np.array(data.draw(st.permutations(range(sum(counts)))), dtype=np.int64)
    shuffled = with_captions_of(rows, permutation)
    before = [text for texts in rows["captions"] for text in texts]
    after = [text for texts in shuffled["captions"] for text in texts]
    assert after == [before[index] for index in permutation]
    assert [len(texts) for texts in shuffled["captions"]] == counts
    assert shuffled.column_names == [*rows.column_names, CAPTION_PERSONS]
    for name in ("person_id", "camera"):
        assert shuffled[name][:] == rows[name][:]
    assert shuffled.features["captions"] == rows.features["captions"]
    whose = [persons[int(text.split("-")[0])] for text in after]
    assert [person for group in shuffled[CAPTION_PERSONS] for person in group] == whose
    own = np.repeat(persons, counts)
    assert np.array_equal(matched_pairs(shuffled), own == np.array(whose))


def write(path, permutation):
    np.save(path, np.asarray(permutation))
    return str(path)


def test_a_file_is_applied_as_it_is_and_recorded_by_its_digest(tmp_path):
    rows = split([2, 1, 1], [5, 5, 7])
    path = write(tmp_path / "noise.npy", np.array([3, 0, 1, 2]))
    noise = CaptionNoise.of(path)
    shuffled = noise.apply(rows)
    assert shuffled["captions"][:] == [["2-0", "0-0"], ["0-1"], ["1-0"]]
    assert noise.record(shuffled) == {
        "sha256": hashlib.sha256((tmp_path / "noise.npy").read_bytes()).hexdigest(),
        "share_of_other_identity": 0.5,
    }


def test_a_rate_is_recorded_with_its_seed_and_the_true_share():
    rows = split([2] * 50)
    noise = CaptionNoise.of(0.5, seed=4)
    shuffled = noise.apply(rows)
    record = noise.record(shuffled)
    assert (record["rate"], record["seed"]) == (0.5, 4)
    assert record["share_of_other_identity"] == np.mean(~matched_pairs(shuffled))
    assert 0.4 < record["share_of_other_identity"] <= 0.5
    nothing = CaptionNoise.of(0.0).apply(rows)
    assert nothing["captions"][:] == rows["captions"][:]


def test_pairs_know_which_captions_are_of_their_person():
    rows = person_rows(4)
    tokenizer = train_tokenizer([text for texts in rows["captions"] for text in texts], 600)
    assert PairDataset(rows, tokenizer).matched is None
    shuffled = CaptionNoise.of(0.9, seed=1).apply(rows)
    pairs = PairDataset(shuffled, tokenizer)
    assert np.array_equal(pairs.matched, matched_pairs(shuffled))
    assert 0 < pairs.matched.sum() < len(pairs)
    assert np.array_equal(pairs.person_labels, PairDataset(rows, tokenizer).person_labels)


def test_a_file_of_another_length_names_both(tmp_path):
    path = write(tmp_path / "noise.npy", np.arange(7))
    with pytest.raises(InputError, match=r"noise\.npy is a permutation of 7 pairs, but the train split has 4") as error:
        CaptionNoise.of(path).apply(split([2, 2]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([0, 1, 1, 3]), "no permutation; each of 0 to 3 must come once"),
        (np.array([1, 2, 3, 4]), "no permutation"),
        (np.array([0, -1]), "no permutation"),
        (np.arange(4, dtype=np.int32), r"one int64 number a pair, but it holds int32 \(4,\)"),
        (np.arange(4.0), "float64"),
        (np.arange(4).reshape(2, 2), r"int64 \(2, 2\)"),
    ],
)
def test_a_file_that_is_no_permutation_is_refused(tmp_path, content, message):
    path = write(tmp_path / "noise.npy", content)
    with pytest.raises(InputError, match=message) as error:
        CaptionNoise.of(path)
    assert path in str(error.value)


def test_files_that_are_not_numbers_are_refused_and_not_run(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "several.npz", one=np.arange(2), two=np.arange(2))
    (tmp_path / "text.npy").write_text("0 1 2")
    (tmp_path / "empty.npy").touch()
    for name in ("objects.npy", "text.npy", "empty.npy"):
        with pytest.raises(InputError, match=f"{name} is not a whole .npy file of numbers"):
            CaptionNoise.of(str(tmp_path / name))
    with pytest.raises(InputError, match="several arrays"):
        CaptionNoise.of(str(tmp_path / "several.npz"))
    with pytest.raises(InputError, match="cannot be read"):
        CaptionNoise.of(str(tmp_path / "none.npy"))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0, float("nan")])
def test_a_rate_outside_its_range_is_refused(rate):
    with pytest.raises(InputError, match="from 0 to below 1"):
        CaptionNoise.of(rate)
