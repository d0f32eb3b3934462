"""The caches of large sets: built once, by whoever comes first, whatever happens to the others."""

import json
import os
import tracemalloc
from pathlib import Path

import datasets
import pytest
from datasets import Dataset

from cffa_hf.data import entries, processes, token_ids
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.data.pairs import CaptionDataset
from cffa_hf.data.token_ids import encode_rows
from cffa_hf.errors import InputError
from cffa_hf.inputs.processor import encode_captions, train_tokenizer
from tests.processes import kill_when_it_waits, python_child

WORDS = "red green blue coat hat bag shoes scarf".split()  # noqa: SIM905
pytestmark = pytest.mark.filterwarnings("ignore:.*instead of the:UserWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder)
    return folder


def write_set(root: Path, images: int, word: str = "coat") -> Path:
    (root / "MALS").mkdir(parents=True, exist_ok=True)
    file = root / "MALS" / "g_0_attrs.json"
    rows = [{"image": f"a/{n}.jpg", "caption": f"a {word} {n}", "label": [1, 0, -1] * 9} for n in range(images)]
    file.write_text(json.dumps(rows))
    return file


def load(root: Path) -> Dataset:
    return load_person_dataset("mals", root, check_files=False)["train"]


def caption_rows(count: int = 40) -> Dataset:
    captions = [[f"a {WORDS[(n + m) % 8]} {n}" for m in range(1 + n % 3)] for n in range(count)]
    return Dataset.from_dict({"captions": captions, "person_id": list(range(count))})


@pytest.fixture
def tokenizer():
    return train_tokenizer([f"a {word}" for word in WORDS], 560)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(token_ids, "CACHED_CAPTIONS", 10)
    monkeypatch.setattr(token_ids, "PART_CAPTIONS", 8)


def test_a_second_start_opens_what_the_first_has_read(tmp_path, cache, monkeypatch):
    file = write_set(tmp_path, 50)
    first = load(tmp_path)
    monkeypatch.setattr("cffa_hf.data.row_cache._build", pytest.fail)
    assert load(tmp_path).to_list() == first.to_list()
    os.utime(file)  # the same content at another time
    assert load(tmp_path).to_list() == first.to_list()
    assert first.cache_files  # memory-mapped


def test_another_content_is_read_again(tmp_path):
    write_set(tmp_path, 50)
    load(tmp_path)
    write_set(tmp_path, 50, "boot")
    assert load(tmp_path)["captions"][3] == ["a boot 3"]
    write_set(tmp_path, 20)
    assert len(load(tmp_path)) == 20


def test_a_damaged_cache_is_made_again(tmp_path, cache):
    write_set(tmp_path, 50)
    expected = load(tmp_path).to_list()
    for name, content in (("train.arrow", b""), ("facts.json", b"{"), ("facts.json", b'{"counts": {"train": [1]}}')):
        (file,) = (cache / "cffa_rows").glob(f"*/{name}")
        file.unlink()
        file.write_bytes(content)
        assert load(tmp_path).to_list() == expected


@pytest.mark.parametrize("name", ["train.arrow", "facts.json", "checksums.json"])
def test_one_changed_byte_of_a_cache_is_noticed(tmp_path, cache, name):
    write_set(tmp_path, 5)
    expected = load(tmp_path).to_list()
    (file,) = (cache / "cffa_rows").glob(f"*/{name}")
    whole = file.read_bytes()
    file.write_bytes(bytes([*whole[:-9], whole[-9] ^ 1, *whole[-8:]]))
    assert load(tmp_path).to_list() == expected
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_explained(tmp_path, monkeypatch):
    write_set(tmp_path, 5)
    (tmp_path / "file").touch()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "file")
    with pytest.raises(InputError, match=r"the cache cannot be written .* set HF_DATASETS_CACHE to another disk"):
        load(tmp_path)


def test_a_killed_build_leaves_no_process_and_the_next_one_starts_clean(tmp_path, cache):
    write_set(tmp_path, 5_000)
    code = """
    import sys, time
    import cffa_hf.data.row_cache as cache
    from cffa_hf.data.loading import load_person_dataset
    make_part = cache.make_part
    def slow(source, numbered):
        if numbered[0][0] == 2048:
            print("waiting", flush=True)
            time.sleep(600)
        return make_part(source, numbered)
    cache.make_part = slow
    load_person_dataset("mals", sys.argv[1], check_files=False)
    """
    kill_when_it_waits(python_child(code, cache, tmp_path))
    assert list((cache / "cffa_rows").glob(".*.unfinished"))
    rows = load(tmp_path)
    assert [row["captions"] for row in rows] == [[f"a coat {n}"] for n in range(5_000)]
    assert not list((cache / "cffa_rows").glob(".*.unfinished"))


def test_two_that_begin_at_once_do_not_disturb_each_other(tmp_path, cache):
    write_set(tmp_path, 4_000)
    code = """
    import sys, cffa_hf.data.row_cache as cache, cffa_hf.data.token_ids as ids
    from cffa_hf.data.loading import load_person_dataset
    from cffa_hf.inputs.processor import train_tokenizer
    ids.CACHED_CAPTIONS = 10
    ids.PART_CAPTIONS = 500
    rows = load_person_dataset("mals", sys.argv[1], check_files=False)["train"]
    found = ids.encode_rows(rows, train_tokenizer(["a coat"], 540), 20)
    print(len(rows), rows[3999]["captions"], len(found), found[3999])
    """
    outputs = [process.communicate(timeout=120) for process in [python_child(code, cache, tmp_path) for _ in range(2)]]
    assert outputs[0][0].startswith("4000 ['a coat 3999'] 4000 ["), outputs[0][1]
    assert outputs[0][0] == outputs[1][0]
    for kind in ("cffa_rows", "cffa_token_ids"):
        assert len([path for path in (cache / kind).iterdir() if path.is_dir()]) == 1


def test_reading_needs_as_much_memory_for_four_times_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(entries, "AT_ONCE", 128)
    monkeypatch.setattr(processes, "processor_count", lambda: 2)
    peaks = []
    for number, images in enumerate((1_000, 2_000, 8_000)):
        write_set(tmp_path / str(number), images)
        tracemalloc.start()
        load(tmp_path / str(number))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.5 * peaks[1]  # the first one imports things


# Token ids


def test_cached_ids_are_those_of_the_captions(cache, tokenizer, small_parts):
    rows = caption_rows()
    texts = [text for texts in rows["captions"] for text in texts]
    expected = encode_captions(tokenizer, texts, 6)
    for _ in range(2):
        captions = CaptionDataset(rows, tokenizer, 6)
        assert [captions.input_ids(index) for index in range(len(captions))] == expected
        assert [captions.text(index) for index in range(len(captions))] == texts
    assert len(list((cache / "cffa_token_ids").glob("*/part-*.arrow"))) > 3


def test_ids_of_the_same_captions_are_made_once(cache, tokenizer, small_parts, monkeypatch):
    rows = caption_rows()
    found = encode_rows(rows, tokenizer, 6)
    monkeypatch.setattr(token_ids, "_build", None)
    other_way = datasets.concatenate_datasets([rows.select(range(7)), rows.select(range(7, 40))])
    again = encode_rows(other_way, tokenizer, 6)
    tokenizer(["a"], padding="max_length", truncation=True, max_length=5)  # what it was used for plays no role
    encode_rows(rows, tokenizer, 6)
    assert [again[index] for index in range(len(again))] == [found[index] for index in range(len(found))]


@pytest.mark.parametrize("change", ["tokenizer", "length", "captions", "division"])
def test_ids_are_made_again_when_what_they_depend_on_changes(cache, tokenizer, small_parts, change):
    rows = caption_rows()
    encode_rows(rows, tokenizer, 6)
    captions, length = rows["captions"][:], 6
    if change == "tokenizer":
        tokenizer = train_tokenizer([f"the {word}" for word in WORDS], 570)
    elif change == "length":
        length = 5
    elif change == "captions":
        captions[3][0] = "a purple coat"
    else:
        captions[0], captions[1] = captions[0] + captions[1][:1], captions[1][1:]
    other = Dataset.from_dict({"captions": captions})
    found = encode_rows(other, tokenizer, length)
    expected = encode_captions(tokenizer, [text for texts in captions for text in texts], length)
    assert [found[index] for index in range(len(found))] == expected
    assert len([path for path in (cache / "cffa_token_ids").iterdir() if path.is_dir()]) == 2


def test_lost_parts_are_made_again(cache, tokenizer, small_parts):
    rows = caption_rows()
    expected = [*map(encode_rows(rows, tokenizer, 6).__getitem__, range(5))]
    (part,) = (cache / "cffa_token_ids").glob("*/part-00001.arrow")
    whole = part.read_bytes()
    for damaged in (b"ARROW1", b"", *(bytes([*whole[:at], whole[at] ^ 1, *whole[at + 1 :]]) for at in (9, -60))):
        part.write_bytes(damaged)
        assert [*map(encode_rows(rows, tokenizer, 6).__getitem__, range(5))] == expected
        assert part.read_bytes() == whole


def test_a_killed_tokenisation_goes_on(cache, tokenizer, small_parts):
    rows = caption_rows(4_000)
    rows.save_to_disk(str(cache / "rows"))
    tokenizer.save_pretrained(cache / "tokenizer")
    code = """
    import sys, time
    import cffa_hf.data.token_ids as ids
    from datasets import load_from_disk
    from transformers import CLIPTokenizer
    ids.CACHED_CAPTIONS, ids.PART_CAPTIONS = 10, 500
    write_part = ids._write_part
    def slow(shared, part):
        if part[0] == 4:
            print("waiting", flush=True)
            time.sleep(600)
        return write_part(shared, part)
    ids._write_part = slow
    ids.encode_rows(load_from_disk(sys.argv[1] + "/rows"), CLIPTokenizer.from_pretrained(sys.argv[1] + "/tokenizer"), 9)
    """
    kill_when_it_waits(python_child(code, cache, cache))
    parts = {path.name: path.stat().st_mtime_ns for path in (cache / "cffa_token_ids").glob("*.unfinished/part-*")}
    assert {"part-00000.arrow", "part-00001.arrow"} <= parts.keys()
    token_ids.PART_CAPTIONS = 500  # as the fixture's monkeypatch restores it
    found = encode_rows(rows, type(tokenizer).from_pretrained(cache / "tokenizer"), 9)
    expected = encode_captions(tokenizer, [text for texts in rows["captions"] for text in texts], 9)
    assert [found[index] for index in range(len(found))] == expected
    after = {path.name: path.stat().st_mtime_ns for path in (cache / "cffa_token_ids").glob("*/part-*")}
    assert {name: after[name] for name in parts} == parts
