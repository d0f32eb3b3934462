"""Pages of memory-mapped files are given back, and nothing that is in memory alone."""

import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, concatenate_datasets

from cffa_hf.data import mapped_pages
from cffa_hf.data.columns import caption_counts, captions_digest, column_array
from cffa_hf.data.mapped_pages import MappedPages
from cffa_hf.data.pairs import ImageDataset
from cffa_hf.data.rows import FEATURES
from cffa_hf.data.token_ids import TokenIds

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems keep their pages")
ROWS = 20_000


def write_rows(file: Path) -> Dataset:
    """Write some 20 MB of rows and open them, memory-mapped."""
    captions = [[f"a person number {number} {'in a coat ' * 40}"] for number in range(ROWS)]
    table = pa.table(
        {
            "image": [{"bytes": None, "path": f"/images/{'folder' * 50}/{number}.jpg"} for number in range(ROWS)],
            "captions": captions,
            "person_id": np.arange(ROWS),
            "image_id": np.arange(ROWS),
            "file_path": [f"{number}.jpg" for number in range(ROWS)],
            "camera": pa.nulls(ROWS, pa.string()),
        },
        schema=FEATURES.arrow_schema,
    )
    with file.open("wb") as stream, pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    return Dataset.from_file(str(file))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "train.arrow")


def resident(file: str) -> int:
    """Return how many bytes of a file are resident in this process, in all of its mappings."""
    text = Path("/proc/self/smaps").read_text()
    parts = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.M)
    return sum(1024 * int(re.search(r"^Rss:\s+(\d+)", part, re.M)[1]) for part in parts if f"{file}\n" in part)


@linux
def test_pages_are_given_back_and_come_again(rows):
    (file,) = (entry["filename"] for entry in rows.cache_files)
    pages = MappedPages(rows)
    expected = rows[ROWS - 1]
    text = rows["captions"][:]
    assert resident(file) > 5 * 2**20
    pages.release()
    assert resident(file) < 2**20
    assert rows["captions"][:] == text
    assert rows[ROWS - 1] == expected


@linux
def test_what_reads_a_column_leaves_nothing_resident(rows):
    (file,) = (entry["filename"] for entry in rows.cache_files)
    assert caption_counts(rows).tolist() == [1] * ROWS
    assert column_array(rows, "person_id").tolist() == list(range(ROWS))
    captions_digest(rows)
    assert resident(file) < 2**20


@linux
def test_reading_at_random_keeps_a_part_resident(rows, monkeypatch):
    (file,) = (entry["filename"] for entry in rows.cache_files)
    places = np.random.default_rng(0).permutation(ROWS)[:2_000].tolist()
    images = pickle.loads(pickle.dumps(ImageDataset(rows)))
    MappedPages(rows).release()
    for place in places:
        assert images.source(place)["path"].endswith(f"/{place}.jpg")
    all_of_it = resident(file)
    monkeypatch.setattr(mapped_pages, "READS", 4)
    highest = 0
    for place in places:
        images.source(place)
        highest = max(highest, resident(file)) if place % 50 == 0 else highest
    assert highest < all_of_it / 3


def test_what_is_in_memory_alone_stays(rows):
    ids = TokenIds([(np.array([0, 2, 4], np.int32), np.array([1, 2, 3, 4], np.uint16))])
    ids._pages.release()
    assert [ids[0], ids[1]] == [[1, 2], [3, 4]]
    mixed = concatenate_datasets([rows, Dataset.from_dict(rows[:5], features=rows.features)])
    expected = mixed[ROWS : ROWS + 5]
    for one in (mixed, mixed.select([ROWS + 1, 3]), Dataset.from_dict(rows[:5])):
        MappedPages(one).release()
    assert mixed[ROWS : ROWS + 5] == expected == rows[:5]


def test_a_system_that_cannot_do_it_reads_all_the_same(rows, monkeypatch):
    monkeypatch.setattr(mapped_pages, "_advise", None)
    pages = MappedPages(rows)
    pages.release()
    assert column_array(rows, "person_id").tolist() == list(range(ROWS))
