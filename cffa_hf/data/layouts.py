"""The annotation files of sets for pre-training, of long captions and of other implementations: a table, and what is found.

The three benchmarks' own files are in annotations.py; this table is read by large_sets.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cffa_hf.errors import InputError


@dataclass(frozen=True)
class Layout:
    """What is particular about the annotation files of one data set.

    Attributes:
        name: The name in a config.
        folder: The customary folder below the root of all data sets.
        files: Patterns of file names for each split, below the folder; of those of one split the first counts that matches
            anything, and all its matches are read. The key "" stands for files whose rows say their split.
        holds: "rows": a list of objects; "captions by path": an object of image path to captions; "list of captions by
            path": a list of such objects.
        path_key: Key of the image's path; not used where paths are the keys.
        caption_keys: Keys of a caption, or of a list of captions; all that are there are taken, in this order.
        person_key: Key of the identity; None: each image is an identity of its own.
        images: Folders that image paths may be relative to, below the folder; the first is taken where an image is found.
        by_base_name: Whether several files are merged by the base name of the image, which lies in one flat folder.
        counts: Official (identities, images, captions) of all splits together, None where it is not published.
        origin: Where it is described.
    """

    name: str
    folder: str
    files: Mapping[str, tuple[str, ...]]
    origin: str
    holds: Literal["rows", "captions by path", "list of captions by path"] = "rows"
    path_key: str = "image"
    caption_keys: tuple[str, ...] = ("caption",)
    person_key: str | None = None
    images: tuple[str, ...] = ("", "imgs", "images")
    by_base_name: bool = False
    counts: tuple[int | None, ...] = field(default=(None, None, None))

    @property
    def splits(self) -> str:
        """Name the files of all splits, for a message."""
        return ", ".join(" or ".join(patterns) for patterns in self.files.values())


_BENCHMARKS = (
    ("cuhk_pedes", "CUHK-PEDES", "cuhk", True),
    ("icfg_pedes", "ICFG-PEDES", "icfg", False),
    ("rstpreid", "RSTPReid", "rstp", True),
)


def _of_each_benchmark() -> list[Layout]:
    """Describe the files into which other implementations turn the three benchmarks, one for each split."""
    found = []
    for name, folder, short, has_validation in _BENCHMARKS:
        splits = {"train": "train", **({"validation": "val"} if has_validation else {}), "test": "test"}
        found += [
            Layout(
                f"aptm_{name}",
                folder,
                {split: (f"{short}_{word}.json", f"finetune/{short}_{word}.json") for split, word in splits.items()},
                "the README of github.com/Shuyu-XJTU/APTM",
                caption_keys=("caption", "captions"),
                person_key="image_id",
                images=("imgs", "", "..", "../images"),
            ),
            Layout(
                f"tbps_clip_{name}",
                folder,
                {split: (f"{word}_reid.json",) for split, word in splits.items()},
                "the README of github.com/Flame-Chasers/TBPS-CLIP",
                path_key="file_path",
                caption_keys=("captions",),
                person_key="id",
                images=("imgs", "", "..", "../images"),
            ),
        ]
    return found


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "mals",
            "MALS",
            {"train": ("g_*_attrs.json", "gene_attrs/g_*_attrs.json", "*.json")},
            "the README of github.com/Shuyu-XJTU/APTM",
            counts=(None, 1_510_330, 1_510_330),
        ),
        Layout(
            "sda",
            "SDA",
            {"train": ("*.json", "annotations/*.json")},
            "the README of github.com/Shuyu-XJTU/MRA",
            counts=(None, 1_217_750, 1_217_750),
        ),
        Layout(
            "synth_pedes",
            "SYNTH-PEDES",
            {"train": ("synthpedes_dataset.json", "*.json")},
            "the README of github.com/Zplusdragon/PLIP",
            path_key="file_path",
            caption_keys=("captions",),
            person_key="id",
        ),
        Layout(
            "luperson_mllm",
            "LUPerson-MLLM",
            {"train": ("caption/T[sd]-*.json", "T[sd]-*.json", "captions/*.json", "caption/*.json", "*.json")},
            "the README of github.com/WentaoTan/MLLM4Text-ReID",
            holds="captions by path",
            images=("imgs", "images", "LUPerson-MLLM", ""),
            by_base_name=True,
        ),
        Layout(
            "webperson",
            "WebPerson",
            {"train": ("*.json", "annotations/*.json")},
            "huggingface.co/datasets/Kaichengalex/WebPerson-5M",
            holds="list of captions by path",
            caption_keys=("caption1", "caption2"),
            counts=(None, 5_002_723, 10_005_446),
        ),
        Layout(
            "ufine6926",
            "UFine6926",
            {"": ("UFine6926*.json", "*.json")},
            "the README of github.com/Zplusdragon/UFineBench",
            path_key="file_path",
            caption_keys=("captions",),
            person_key="id",
            images=("", "imgs"),
            counts=(6_926, 26_206, 52_412),
        ),
        Layout(
            "ufine3c",
            "UFine3C",
            {"test": ("UFine3C*.json", "*.json")},
            "the README of github.com/Zplusdragon/UFineBench",
            path_key="file_path",
            caption_keys=("captions",),
            person_key="id",
            images=("", "imgs"),
            counts=(2_250, 7_446, 37_939),
        ),
        *_of_each_benchmark(),
    )
}


def layout_named(name: str) -> Layout | None:
    """Find a layout by its name, or by the folder that is its alone; None if there is none."""
    benchmarks = {folder for _, folder, _, _ in _BENCHMARKS}
    own = {layout.folder.lower(): layout for layout in LAYOUTS.values() if layout.folder not in benchmarks}
    return LAYOUTS.get(name.lower().replace("-", "_")) or own.get(name.lower())


def find_annotations(
    layout: Layout, root: Path, annotation_file: str | Path | None = None
) -> tuple[Path, list[tuple[str, Path]]]:
    """Find the folder of a data set and its annotation files.

    Args:
        layout: What to look for.
        root: The folder of the data set, or the folder above.
        annotation_file: The only file to read, relative to the folder or to the working directory; for layouts with one
            split.

    Returns:
        The folder, and (split, file) for each file, in the order of splits and names; the split is "" where rows say it.

    Raises:
        InputError: Says what was looked for and where.
    """
    folders = [folder for folder in (root / layout.folder, root) if folder.is_dir()]
    if not folders:
        raise InputError(f"{root}: there is no such folder; give the folder that holds {layout.folder}/ as root.")
    if annotation_file is not None:
        if len(layout.files) > 1:
            raise InputError(
                f"annotation_file is {str(annotation_file)!r}, but {layout.name} has a file for each split "
                f"({layout.splits}); leave the setting out."
            )
        given = Path(annotation_file).expanduser()
        for file in (folders[0] / given, given):
            if file.is_file():
                return folders[0], [(next(iter(layout.files)), file)]
        raise InputError(
            f"{given}: there is no such annotation file, neither in {folders[0]} nor in the working directory."
        )
    for folder in folders:
        found = []
        for split, patterns in layout.files.items():
            matches = (sorted(file for file in folder.glob(pattern) if file.is_file()) for pattern in patterns)
            found += [(split, file) for file in next((files for files in matches if files), [])]
        if found:
            return folder, found
    raise InputError(
        f"The annotations of {layout.name} are missing: looked for {layout.splits} in {root / layout.folder} and "
        f"{root}; where they come from is told by {layout.origin}."
    )
