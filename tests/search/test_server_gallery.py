"""A gallery whose index is a server: built, changed, opened again and searched as if it were here."""

import pytest

from cffa_hf.errors import InputError, RunStopped
from cffa_hf.inference import Embedder
from cffa_hf.inputs.images import read_image
from cffa_hf.search.gallery import Gallery
from tests.search import postgres_server
from tests.tiny import person_rows, tiny_model, tiny_processor

pytestmark = pytest.mark.skipif(not postgres_server.INSTALLED, reason=postgres_server.REASON)


@pytest.fixture(scope="module")
def server():
    with postgres_server.running_postgres() as running:
        yield running


@pytest.fixture(scope="module")
def rows():
    return person_rows(identities=3)


@pytest.fixture(scope="module")
def embedder(rows):
    return Embedder(tiny_model().base_model, tiny_processor(rows), precision="float32", batch_size=4)


@pytest.fixture
def people(rows, tmp_path):
    folder = tmp_path / "people"
    folder.mkdir()
    for number, row in enumerate(rows):
        read_image(row["image"]).save(folder / f"{number}.png")
    return folder


def columns(count, time="2024-01-0{}"):
    return {
        f"{number}.png": {"camera": f"cam_{number % 2}", "time": time.format(number + 1)} for number in range(count)
    }


def answers(gallery, where=None):
    return [
        (result.path, pytest.approx(result.score, abs=1e-5)) for result in gallery.search("a red shirt", 9, where=where)
    ]


def test_a_gallery_on_a_server_answers_like_one_without(server, embedder, people, tmp_path, monkeypatch):
    out = tmp_path / "gallery"
    options = {"metadata": columns(6), "progress": False}
    here = Gallery.from_folder(embedder, people, **options)
    there = Gallery.from_folder(embedder, people, out, index=server.url, **options)
    assert there.index.kind == there.describe()["index"] == "pgvector"
    wheres = (None, {"camera": "cam_1"}, {"time": {"min": "2024-01-02", "max": "2024-01-04"}})
    for where in wheres:
        assert answers(there, where) == answers(here, where)
    # Removed, changed and annotated: the server learns of it.
    there.remove(["0.png"])
    assert len(there.index) == 5
    (people / "0.png").rename(people / "9.png")
    read_image(people / "1.png").rotate(180).save(people / "2.png")
    fresh = {name: row for name, row in columns(6, time="2024-02-0{}").items() if name != "0.png"}
    there.close()
    there = Gallery.from_folder(embedder, people, out, index=server.url, metadata=fresh, progress=False)
    here = Gallery.from_folder(embedder, people, metadata=fresh, progress=False)
    assert len(there.index) == len(here) == 6
    for where in (None, {"time": {"min": "2024-02-01"}}, {"camera": "cam_0"}):
        assert sorted(answers(there, where), key=lambda each: each[0]) == sorted(
            answers(here, where), key=lambda each: each[0]
        )
    there.close()
    # The password is nowhere in the folder: it comes from the environment or with the address.
    for path in out.rglob("*"):
        assert path.is_dir() or not [word for word in (b"let me", b"let%20me") if word in path.read_bytes()]
    with pytest.raises(InputError, match="set PGPASSWORD"):
        Gallery.open(out, embedder)
    Gallery.open(out, embedder, index=server.url).close()
    monkeypatch.setenv("PGPASSWORD", server.password)
    again = Gallery.open(out, embedder)
    assert again.index.kind == "pgvector"
    # Updated without a word about the index, it stays on the server; a copy is searched by itself.
    (people / "9.png").unlink()
    again.close()
    again = Gallery.from_folder(embedder, people, out, metadata=fresh, progress=False)
    assert (again.index.kind, len(again.index)) == ("pgvector", 5)
    again.save(tmp_path / "copy")
    copy = Gallery.open(tmp_path / "copy", embedder)
    assert copy.index.kind == "exact"
    assert answers(copy) == answers(again)
    again.close()


def test_two_galleries_do_not_share_a_name(server, embedder, people, tmp_path):
    Gallery.from_folder(embedder, people, tmp_path / "one", index=f"{server.url}#shared", progress=False).close()
    with pytest.raises(InputError, match="choose another name behind the #"):
        Gallery.from_folder(embedder, people, tmp_path / "two", index=f"{server.url}#shared", progress=False)
    with pytest.raises(RunStopped, match="cannot be reached"):
        Gallery.from_folder(
            embedder, people, tmp_path / "three", index="postgresql://me:word@127.0.0.1:1/db", progress=False
        )
    # What was embedded is kept.
    with pytest.warns(UserWarning, match="interrupted at 6 images"):
        assert len(Gallery.open(tmp_path / "three", embedder)) == 6
