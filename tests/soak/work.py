"""The work that is repeated: each function does so many units, and calls `step` of the watch after each."""

import importlib.util
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainerCallback

from cffa_hf.checkpoints.provenance import open_checkpoint
from cffa_hf.evaluation.evaluator import RetrievalEvaluator
from cffa_hf.inference.embedder import Embedder
from cffa_hf.inputs.images import read_image
from cffa_hf.search import Gallery
from tests.service.serving import serving
from tests.soak.judging import Watch
from tests.tiny import person_rows, tiny_model, tiny_processor
from tests.trainers import QUIET, fitting_model, tiny_trainer

WORDS = ["red", "green", "blue", "white", "black", "yellow", "shirt", "trousers", "top", "a", "person", "in", "and"]


@dataclass(frozen=True)
class Work:
    """Something that long runs repeat.

    Attributes:
        name: Names the work in the table.
        option: Of the command, which says how often.
        run: Does it so often in an empty folder.
    """

    name: str
    option: str
    run: Callable[[int, Watch, Path], None]


class StepWatch(TrainerCallback):
    """Counts the steps of a training."""

    def __init__(self, watch: Watch):
        self.watch = watch

    def on_step_end(self, args, state, control, **kwargs):
        self.watch.step()


def train(steps: int, watch: Watch, folder: Path, *, persistent: bool = False) -> None:
    """Train with two loading processes, which an epoch of 100 steps starts anew unless they are persistent."""
    rows = person_rows(identities=50, images_per_identity=4)
    processor = tiny_processor(rows)
    trainer = tiny_trainer(
        folder,
        rows=rows,
        processor=processor,
        model=fitting_model(processor, num_identities=50),
        callbacks=[StepWatch(watch)],
        per_device_train_batch_size=4,
        max_steps=steps,
        dataloader_num_workers=2,
        dataloader_persistent_workers=persistent,
        logging_steps=250,
        learning_rate=1e-4,
        **{**QUIET, "save_strategy": "steps", "save_steps": 500, "save_total_limit": 2},
    )
    trainer.train()


def train_persistent(steps: int, watch: Watch, folder: Path) -> None:
    """Train with loading processes that live as long as the training, so that what they keep would add up."""
    train(steps, watch, folder, persistent=True)


def evaluate(times: int, watch: Watch, folder: Path) -> None:
    """Evaluate a split of 200 images and 400 captions, with a loading process."""
    rows = person_rows(identities=50, images_per_identity=4)
    evaluator = RetrievalEvaluator(rows, tiny_processor(rows), batch_size=64, num_workers=1, progress=False)
    model = tiny_model()
    for _ in range(times):
        evaluator(model)
        watch.step()


def search(times: int, watch: Watch, folder: Path) -> None:
    """Search a gallery by exact comparison."""
    _search("exact", times, watch)


def search_faiss(times: int, watch: Watch, folder: Path) -> None:
    """Search a gallery by FAISS."""
    _search("faiss", times, watch)


def _search(index: str, times: int, watch: Watch) -> None:
    """Search by sentences, with and without conditions, and by images of the gallery."""
    gallery = _gallery(index)
    asked = sentences()
    wheres = [None, {"camera": "cam_a"}, {"number": {"min": 3}}, {"camera": ["cam_a", "cam_b"]}]
    for number in range(times):
        # Each range is a new condition: what is remembered of conditions must not grow with them.
        where = {"number": {"max": number}} if number % 5 == 4 else wheres[number % 5 % len(wheres)]
        if number % 3:
            gallery.search(next(asked), 10, where=where)
        else:
            gallery.search_like(number % len(gallery), 10, where=where)
        watch.step()
    gallery.close()


def serve(requests: int, watch: Watch, folder: Path) -> None:
    """Send requests of every kind to a running service, every 50th on a connection of its own."""
    gallery = _gallery("exact", folder)
    image = gallery.image_path(1).read_bytes()
    asked = sentences()
    with serving(gallery) as client:
        kinds = [
            lambda number: client.post("/search", json={"query": next(asked), "k": 5}),
            lambda number: client.post(
                "/search", json={"query": [next(asked), next(asked)], "where": {"camera": "cam_a"}}
            ),
            lambda number: client.post("/search", json={"like": number % len(gallery)}),
            lambda number: client.post("/embed", json={"texts": [next(asked)]}),
            lambda number: client.post("/search/image", files={"image": ("a.png", image, "image/png")}),
            lambda number: client.post("/search", json={"query": next(asked), "k": -number}),
            lambda number: client.get(f"/images/{number % len(gallery)}"),
            lambda number: client.get(f"/no/such/page/{number}"),
            lambda number: client.get("/health"),
            lambda number: client.get("/metrics"),
        ]
        expected = [200, 200, 200, 200, 200, 422, 200, 404, 200, 200]
        for number in range(requests):
            headers = {"Connection": "close"} if number % 50 == 0 else {}
            client.headers.pop("Connection", None)
            client.headers.update(headers)
            answer = kinds[number % len(kinds)](number)
            if answer.status_code != expected[number % len(kinds)]:
                raise SystemExit(f"Request {number} was answered with {answer.status_code}: {answer.text[:200]}.")
            watch.step()
    gallery.close()


def reopen(times: int, watch: Watch, folder: Path) -> None:
    """Open a checkpoint and a gallery, search once, and close."""
    _gallery("faiss" if HAS_FAISS else "exact", folder).close()
    for _ in range(times):
        embedder = Embedder.from_checkpoint(open_checkpoint(folder / "model", device="cpu"), precision="float32")
        gallery = Gallery.open(folder / "gallery", embedder)
        gallery.search("a person in a red shirt")
        gallery.close()
        watch.step()


def sentences() -> Iterator[str]:
    """Return sentences without end, hardly one of them twice."""
    chance = random.Random(0)
    while True:
        yield " ".join(chance.choices(WORDS, k=chance.randint(3, 15)))


def _gallery(index: str, folder: Path | None = None) -> Gallery:
    """Make a gallery of 200 images with metadata; in a folder, its images and its model are written beside it."""
    rows = person_rows(identities=50, images_per_identity=4)
    model, processor = tiny_model().base_model, tiny_processor(rows)
    embedder = Embedder(model, processor, precision="float32")
    metadata = {
        row["file_path"]: {"camera": f"cam_{'abc'[row['image_id'] % 3]}", "number": row["image_id"]} for row in rows
    }
    if folder is None:
        images = [read_image(row["image"]) for row in rows]
        gallery = Gallery.new(embedder)
        gallery.add(images, list(metadata), list(metadata.values()))
        return gallery.finished(index)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "people").mkdir()
    for row in rows:
        (folder / "people" / row["file_path"]).write_bytes(row["image"]["bytes"])
    return Gallery.from_folder(
        embedder, folder / "people", folder / "gallery", metadata=metadata, index=index, progress=False
    )


HAS_FAISS = importlib.util.find_spec("faiss") is not None
WORKS = [
    Work("training steps", "steps", train),
    Work("training steps, persistent workers", "steps", train_persistent),
    Work("evaluations", "evaluations", evaluate),
    Work("searches, exact", "searches", search),
    *([Work("searches, FAISS", "searches", search_faiss)] if HAS_FAISS else []),
    Work("requests to the service", "requests", serve),
    Work("openings of a checkpoint and a gallery", "openings", reopen),
]
