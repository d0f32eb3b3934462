"""The stream: every sample once, none twice, the same each time, whoever reads it and wherever it is taken up again."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from cffa_hf.data.collator import PairCollator
from cffa_hf.data.shards import open_shards
from cffa_hf.data.stream import StreamBatches
from cffa_hf.data.stream_order import StreamOrder
from cffa_hf.errors import InputError
from tests.file_server import served
from tests.shards import add_member, write_shards, write_tar
from tests.tiny import IMAGE_SIZE, person_rows, tiny_processor


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def processor():
    return tiny_processor(person_rows())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


def stream_of(folder, processor, **changes) -> StreamBatches:
    options = {"image_size": IMAGE_SIZE, "context_length": 24, "batch_size": 3, "buffer": 5, **changes}
    tokenizer = processor.tokenizer
    return StreamBatches(open_shards(folder), tokenizer, PairCollator(tokenizer.pad_token_id), **options)


def epoch_of(stream, epoch=0, skipped=0, workers=0):
    stream.set_position(epoch, skipped)
    context = "fork" if workers else None
    return list(DataLoader(stream, batch_size=None, num_workers=workers, multiprocessing_context=context))


def pairs_of(batches) -> list[list[int]]:
    return [batch["pairs"].tolist() if batch else [] for batch in batches]


def flat(batches) -> list[int]:
    return [pair for batch in batches for pair in batch]


def same(one, other) -> bool:
    assert pairs_of(one) == pairs_of(other)
    return all(torch.equal(left[name], right[name]) for left, right in zip(one, other, strict=True) for name in left)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.integers(1, 8),
    st.integers(1, 5),
    st.integers(1, 50),
    st.integers(0, 3),
)
def test_lanes_share_all_samples_out(counts, lanes, batch_size, buffer, epoch):
    if sum(counts) < lanes * batch_size:
        with pytest.raises(InputError, match="take a smaller batch"):
            StreamOrder(tuple(counts), lanes, batch_size, buffer, 0)
        return
    order = StreamOrder(tuple(counts), lanes, batch_size, buffer, 0)
    stretches = [order.stretch(epoch, lane) for lane in range(lanes)]
    read = np.concatenate(stretches)
    assert len(set(read.tolist())) == len(read) == sum(counts) - order.left_out
    assert order.left_out < lanes * batch_size
    assert len({len(stretch) for stretch in stretches}) == 1
    assert not len(stretches[0]) % batch_size
    assert 0 <= read.min() <= read.max() < sum(counts)
    leaving = order.leaving(epoch, lanes - 1)
    assert sorted(leaving.tolist()) == list(range(len(leaving)))
    furthest = np.maximum.accumulate(leaving)
    assert np.all(furthest - np.arange(len(leaving)) <= buffer)  # what waits fits the buffer


def test_two_streams_are_equal_and_epochs_are_not(folder, processor):
    first, second = stream_of(folder, processor), stream_of(folder, processor)
    assert same(epoch_of(first), epoch_of(second))
    assert sorted(flat(pairs_of(epoch_of(first)))) == list(range(24))
    assert pairs_of(epoch_of(first, 1)) != pairs_of(epoch_of(first))
    captions = {batch["input_ids"].shape[1] for batch in epoch_of(first, 1)}
    assert captions
    other = stream_of(folder, processor, seed=1)
    assert pairs_of(epoch_of(other)) != pairs_of(epoch_of(first))


def test_captions_take_turns(folder, processor):
    stream = stream_of(folder, processor)

    def texts(epoch):
        batches = epoch_of(stream, epoch)
        decode = processor.tokenizer.decode
        return {
            int(pair): decode(ids[mask.bool()])
            for batch in batches
            for pair, ids, mask in zip(batch["pairs"], batch["input_ids"], batch["attention_mask"], strict=True)
        }

    zero, one, two = texts(0), texts(1), texts(2)
    assert all(zero[pair] != one[pair] for pair in zero)
    assert zero == two


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("skipped", [1, 3])
def test_a_stream_taken_up_again_goes_on_as_it_would_have(folder, processor, workers, skipped, monkeypatch):
    stream = stream_of(folder, processor, workers=workers)
    whole = epoch_of(stream, 2, workers=workers)
    decoded = []
    load = StreamBatches.__init__.__globals__["load_pixels"]
    monkeypatch.setattr("cffa_hf.data.stream.load_pixels", lambda *args: decoded.append(1) or load(*args))
    again = stream_of(folder, processor, workers=workers)
    rest = epoch_of(again, 2, skipped, workers)
    assert all(not batch for batch in rest[:skipped])
    assert same(rest[skipped:], whole[skipped:])
    if not workers:
        assert len(decoded) == 3 * (len(whole) - skipped)  # nothing is decoded only to be skipped


@pytest.mark.parametrize(("processes", "workers"), [(2, 0), (4, 2), (1, 3)])
def test_processes_and_loaders_share_the_stream(folder, processor, processes, workers):
    read, lengths = [], set()
    for rank in range(processes):
        stream = stream_of(folder, processor, processes=processes, rank=rank, workers=workers)
        batches = pairs_of(epoch_of(stream, workers=workers))
        lengths.add(len(batches))
        assert len(batches) == len(stream)
        assert all(len(batch) == 3 for batch in batches)
        read += flat(batches)
    assert len(lengths) == 1
    assert len(set(read)) == len(read) == 24 - stream.order.left_out


def test_identities_without_a_number_are_all_different(folder, processor, tmp_path):
    labels = torch.cat([batch["person_labels"] for batch in epoch_of(stream_of(folder, processor))])
    assert len(set(labels.tolist())) == 24
    write_tar(tmp_path / "0.tar", person_rows(3, 2, first_id=7).to_list())
    labels = torch.cat([batch["person_labels"] for batch in epoch_of(stream_of(tmp_path, processor))])
    assert sorted(labels.tolist()) == [7, 7, 8, 8, 9, 9]


@pytest.fixture
def damaged(tmp_path) -> Path:
    rows = person_rows(12, 1).to_list()
    rows[2]["image"]["bytes"] = b"no picture"
    rows[5]["image"]["bytes"] = rows[5]["image"]["bytes"][:60]
    rows[9]["captions"] = ["  "]
    write_tar(tmp_path / "0.tar", rows)
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_that_cannot_be_used_are_named_counted_and_replaced(damaged, processor, workers, caplog):
    stream = stream_of(damaged, processor, workers=workers)
    batches = pairs_of(epoch_of(stream, workers=workers))
    read = flat(batches)
    assert len(read) == 12
    assert set(read) == set(range(12)) - {2, 5, 9}
    assert stream.failures == 3
    if not workers:
        assert "0.tar: sample 2: the image cannot be read" in caplog.text
        assert "0.tar: sample 9 has no caption with a word in it" in caplog.text
    skipped = pairs_of(epoch_of(stream, 0, 2, workers))
    assert skipped[2:] == batches[2:]


def test_too_many_of_them_stop_the_run_in_one_sentence(damaged, processor):
    with pytest.raises(
        InputError, match=r"more than 1 sample that .*0\.tar: sample \d.*raise stream_failure_limit\.$"
    ) as error:
        epoch_of(stream_of(damaged, processor, failure_limit=1))
    assert str(error.value).count(". ") == 0


def test_a_bomb_is_refused(tmp_path, processor):
    from PIL import Image

    content = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(content, "PNG")
    rows = person_rows(6, 1).to_list()
    rows[1]["image"]["bytes"] = content.getvalue()
    write_tar(tmp_path / "0.tar", rows)
    stream = stream_of(tmp_path, processor)
    assert 1 not in flat(pairs_of(epoch_of(stream)))
    assert stream.failures == 1


def test_a_shard_that_shrinks_while_it_is_read_is_named(tmp_path, processor):
    path = write_tar(tmp_path / "0.tar", person_rows(6, 1).to_list())
    stream = stream_of(tmp_path, processor, failure_limit=0)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"0\.tar: sample \d is cut off; mend the shards"):
        epoch_of(stream)


def test_a_url_is_streamed_like_a_folder(processor):
    import fsspec

    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for number, row in enumerate(person_rows(6, 1).to_list()):
            add_member(tar, f"{number}.png", row["image"]["bytes"])
            add_member(tar, f"{number}.txt", row["captions"][0].encode())
    files = fsspec.filesystem("memory")
    files.pipe("/people/0.tar", content.getvalue())
    batches = epoch_of(stream_of("memory://people", processor))
    assert sorted(flat(pairs_of(batches))) == list(range(6))


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_over_http_are_streamed_like_those_of_a_folder(folder, processor, workers):
    with served(folder.parent) as server:  # its file system refuses to work in a process that was forked from its own
        far = stream_of(f"{server}/{folder.name}", processor, workers=max(1, workers))
        near = stream_of(folder, processor, workers=max(1, workers))
        assert same(epoch_of(far, workers=workers), epoch_of(near, workers=workers))
        assert far.failures == 0


def test_a_loader_with_other_processes_is_refused(folder, processor):
    with pytest.raises(InputError, match="made for 2 loading processes"):
        epoch_of(stream_of(folder, processor, workers=2))
