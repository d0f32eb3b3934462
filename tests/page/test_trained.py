"""The page on the model that `make demo` trains: the person that a sentence describes stands first."""

import json
import shutil

import pytest

from cffa_hf.checkpoints.provenance import open_checkpoint
from cffa_hf.inference.embedder import Embedder
from cffa_hf.search.gallery import Gallery
from tests.browser import Window
from tests.page.conftest import running
from tests.processes import REPOSITORY

MODEL, DATA = REPOSITORY / "outputs" / "demo", REPOSITORY / "demo-data" / "CUHK-PEDES"
QUERIES = 8


@pytest.mark.slow
@pytest.mark.skipif(not (MODEL / "config.json").is_file() or not DATA.is_dir(), reason="make demo was not run here")
def test_the_right_person_stands_first(browser, tmp_path):
    rows = [row for row in json.loads((DATA / "reid_raw.json").read_text()) if row["split"] == "test"][:100]
    metadata = {}
    for row in rows:
        target = tmp_path / "pictures" / row["file_path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(DATA / "imgs" / row["file_path"], target)
        metadata[row["file_path"]] = {"person": str(row["id"]), "camera": row["file_path"].partition("/")[0]}
    embedder = Embedder.from_checkpoint(open_checkpoint(MODEL, device="cpu"))
    Gallery.from_folder(
        embedder, tmp_path / "pictures", tmp_path / "gallery", metadata=metadata, progress=False
    ).close()
    right = 0
    with running(tmp_path / "site", tmp_path / "gallery") as site:
        shown = Window(browser, site.address)
        for row in rows[:: len(rows) // QUERIES][:QUERIES]:
            sentence = row["captions"][0]
            shown.search(sentence)
            right += metadata[shown.why(0)]["person"] == str(row["id"])
        shown.context.close()
    assert right >= QUERIES / 2  # at random it would be one in 25
