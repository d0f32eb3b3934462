"""A published folder in sentence-transformers and in pipelines, where this package is not: the vectors are ours."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

from cffa_hf import Embedder
from cffa_hf.publishing.model import dry_run_model
from tests.processes import without_package
from tests.tiny import person_rows, tiny_model, tiny_processor

TEXTS = [
    "A person in a red shirt and blue trousers.",
    "",
    "A man&#39;s  cafÃ©-coloured&amp;lt;coat ",
    "ΣΑΣ",  # Python's lower-casing is not the tokenizer's
    "yellow top " * 100,
    "red <|endoftext|> shirt <|STARTOFTEXT|>",
    "HTTPS://EXAMPLE.ORG/RED.PNG",
    "walk.mp4",
]
PICTURES = [Image.linear_gradient("L"), Image.linear_gradient("L").rotate(90), Image.radial_gradient("L")]
PICTURES = [image.resize((40, 90)).convert("RGB") for image in PICTURES]
# A fresh process that cannot import this package: all libraries are imported once for both models.
LOAD = """
import json, re, sys, torch, warnings
from pathlib import Path
import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer, util
from transformers import pipeline
out, picture, texts, *folders = sys.argv[1:]
texts, found = json.loads(texts), []
images = [Image.linear_gradient("L"), Image.linear_gradient("L").rotate(90), Image.radial_gradient("L")]
images = [image.resize((40, 90)).convert("RGB") for image in images]
images[0].save(picture)
def refusal(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
for folder in folders:
    model = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old_name = model.get_sentence_embedding_dimension()
    again = folder + "-again"
    model.save(again)
    seen = pipeline("image-feature-extraction", model=folder, trust_remote_code=True, device="cpu")
    read = pipeline("feature-extraction", model=folder, trust_remote_code=True, device="cpu")
    card = re.findall(r"```python\\n(.*?)```", Path(folder, "README.md").read_text(), re.S)[1]
    names = {"captions": texts, "images": images}
    exec(card.replace("owner/model", folder), names)
    found.append({
        "card": names["scores"],
        "widths": (model.get_embedding_dimension(), old_name),
        "function": model.similarity_fn_name,
        "texts": torch.tensor(model.encode(texts)),
        "dictionaries": torch.tensor(model.encode([{"text": text} for text in texts])),
        "images": torch.tensor(model.encode(images)),
        "path": torch.tensor(model.encode(picture)),
        "scores": model.similarity(model.encode(texts), model.encode(images)),
        "best": [hit["corpus_id"] for hit in util.semantic_search(model.encode(texts[0]), model.encode(images))[0]],
        "again": torch.tensor(SentenceTransformer(again, trust_remote_code=True, device="cpu").encode(texts)),
        "untrusted": refusal(lambda: SentenceTransformer(folder, device="cpu")),
        "mixed": refusal(lambda: model.encode([texts[0], images[0]])),
        "pipeline": torch.tensor([seen(image) for image in images])[:, 0],
        "pipeline batches": torch.cat(seen(images, batch_size=2, return_tensors=True)),
        "pipeline text": torch.tensor(read([texts[0], texts[4]], truncation=True))[:, 0],
        "pool": torch.cat(seen(images, pool=True, batch_size=2, return_tensors=True)),
        "pool alone": torch.tensor(seen(images[0], pool=True)),
        "attentions": refusal(lambda: seen.model(**seen.preprocess(images[0]), output_attentions=True)),
    })
torch.save(found, out)
"""


@pytest.fixture(scope="module", params=[True, False], ids=["local features", "global features alone"])
def kind(request) -> bool:
    return request.param


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Published models with and without local features."""
    work, processor = tmp_path_factory.mktemp("work"), tiny_processor(person_rows())
    for name, use_flfr in (("with", True), ("without", False)):
        tiny_model(use_flfr=use_flfr).base_model.save_pretrained(work / "run" / name)
        processor.save_pretrained(work / "run" / name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
            dry_run_model(work / "run" / name, work / name, "owner/model")
    return [work / "with", work / "without"]


@pytest.fixture(scope="module")
def loaded(folders) -> list[dict]:
    """What a process without this package made of them."""
    home = folders[0].parent / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHONPATH"))}
    environment |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = without_package("-c", LOAD, home / "found.pt", home / "a.png", json.dumps(TEXTS), *folders)
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load(home / "found.pt")


@pytest.fixture
def found(loaded, kind) -> dict:
    return loaded[0 if kind else 1]


@pytest.fixture
def ours(kind) -> Embedder:
    model = tiny_model(use_flfr=kind).base_model
    return Embedder(model, tiny_processor(person_rows()), precision="float32")


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_sentence_transformers_gives_our_vectors(found, ours, kind):
    texts, images = ours.captions(TEXTS), ours.images(PICTURES)
    assert found["widths"] == (ours.width, ours.width) == ((96, 96) if kind else (64, 64))
    assert found["function"] == "dot"
    for name, wanted in (("texts", texts), ("dictionaries", texts), ("again", texts), ("images", images)):
        close(found[name], wanted)
    close(found["path"], images[0])  # the path of an image is an image
    close(found["scores"], texts @ images.T)
    close(found["card"], texts @ images.T)
    assert found["best"] == (texts[0] @ images.T).sort(descending=True).indices.tolist()


@pytest.mark.slow
def test_pipelines_give_our_vectors(found, ours):
    close(found["pipeline"], ours.images(PICTURES))
    close(found["pipeline batches"], ours.images(PICTURES))
    close(found["pool"], ours.images(PICTURES))
    close(found["pool alone"], ours.images(PICTURES[:1]))
    close(found["pipeline text"], ours.captions([TEXTS[0], TEXTS[4]]))


@pytest.mark.slow
def test_mistakes_are_named(found):
    assert "trust_remote_code=True" in found["untrusted"]
    assert "Encode each modality separately" in found["mixed"]
    assert "output_attentions" in found["attentions"]
