"""A gallery that is published as a dataset repository, and what one of strangers may not do."""

import json

import pytest

from cffa_hf.errors import InputError
from cffa_hf.inputs.images import read_image
from cffa_hf.search.gallery import Gallery
from tests.hub_server import Repository, running_hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "cache"), raising=False)
        yield hub


@pytest.fixture
def published(embedder, rows, tmp_path):
    """The files of a gallery that holds copies of its images."""
    out = tmp_path / "published"
    Gallery.from_dataset(embedder, rows, out, progress=False).close()
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def publish(hub, files):
    repository = hub.repositories["datasets", "tester/gallery"] = Repository()
    repository.commit("main", files, "a gallery")


def test_a_gallery_of_the_hub_answers_and_shows_its_images(hub, published, embedder, rows):
    publish(hub, published)
    gallery = Gallery.from_hub("tester/gallery", embedder)
    assert len(gallery) == len(rows)
    best = gallery.search("red top", 1)[0]
    shown, original = read_image(gallery.image_path(best.id)), read_image(rows[best.id]["image"])
    assert shown.tobytes() == original.tobytes()


@pytest.mark.parametrize("change", [{"root": "OUTSIDE"}, {"relative_root": "../../../../outside"}])
def test_a_gallery_of_the_hub_shows_no_file_outside(hub, published, embedder, rows, tmp_path, change):
    for name in [name for name in published if name.startswith("images/")]:
        path = tmp_path / "outside" / name.removeprefix("images/")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(published.pop(name))
    header = json.loads(published["gallery.json"]) | {"relative_root": None}
    changes = {key: value.replace("OUTSIDE", str(tmp_path / "outside")) for key, value in change.items()}
    published["gallery.json"] = json.dumps(header | changes).encode()
    publish(hub, published)
    gallery = Gallery.from_hub("tester/gallery", embedder)
    for number in range(len(rows)):
        with pytest.raises(InputError):
            gallery.image_path(number)


def test_what_is_not_on_the_hub_is_one_sentence(hub, embedder):
    with pytest.raises(InputError, match="cannot be had from the Hub"):
        Gallery.from_hub("tester/nothing", embedder)
