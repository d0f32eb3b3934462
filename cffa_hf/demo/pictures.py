"""A few rendered pictures with a camera and a time, for a search page that shows no real person."""

import json
from datetime import datetime, timedelta
from pathlib import Path

from cffa_hf.demo.render import render
from cffa_hf.demo.write import plan
from cffa_hf.files import write_bytes, write_text

METADATA = "metadata.jsonl"
FIRST = datetime(2024, 5, 1, 8, 0)


def write_demo_pictures(folder: str | Path, *, people: int = 16, images_each: int = 3, seed: int = 7) -> list[str]:
    """Render pictures of invented people below a folder, and write what is known about them into `metadata.jsonl`.

    Each line there holds `file_name`, `camera` and `time`. The same arguments give the same files.

    Args:
        folder: Where to; it is made.
        people: Number of people.
        images_each: Pictures of each.
        seed: Decides everything that is drawn.

    Returns:
        For each person one sentence that describes it.
    """
    folder = Path(folder)
    images = plan("cuhk_pedes", identities=(0, 0, people), images_per_identity=images_each, seed=seed)
    lines: list[str] = []
    sentences: dict[int, str] = {}
    for image in images:
        camera = f"camera {image.view.camera + 1}"
        path = folder / camera.replace(" ", "-") / f"{image.image_id:04d}.jpg"
        write_bytes(path, render(image.person, image.view, seed, image.image_id))
        time = FIRST + timedelta(minutes=11 * image.image_id)
        known = {"file_name": path.relative_to(folder).as_posix(), "camera": camera, "time": time.isoformat()}
        lines.append(json.dumps(known) + "\n")
        sentences.setdefault(image.person_id, image.captions[0].text)
    write_text(folder / METADATA, "".join(lines))
    return list(sentences.values())
