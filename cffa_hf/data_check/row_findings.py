"""What is wrong or doubtful in rows that training takes: repetitions, long captions, people and splits."""

from collections import Counter
from collections.abc import Iterable

from cffa_hf.data.rows import SPLITS, PersonRow, count
from cffa_hf.data_check.findings import LONG, REPEATED_CAPTION, REPEATED_IMAGE, REPEATED_ROW, SINGLE, SPLIT, Report
from cffa_hf.data_check.opening import OpenRows
from cffa_hf.inputs.processor import CONTEXT_LENGTH

FEWEST_QUERIES = 100
"""Captions of a split; of fewer, one is more than a percentage point of Rank-1."""
_MOST_WORDS = CONTEXT_LENGTH - 2  # start and end take a token each, and every word at least one


def check_rows(opened: OpenRows, report: Report, *, one_row_an_image: bool) -> None:
    """Report rows and captions that are there twice, and captions that are too long.

    Args:
        opened: The rows.
        report: Receives the findings.
        one_row_an_image: Whether a second row of an image is an irregularity; in one's own data it may hold another caption.
    """
    rows: dict[int, int] = {}
    images: dict[str, int] = {}
    captions: set[int] = set()  # hashes: a set for pre-training has ten million
    for row in opened.listed:
        place = (*opened.locate(row.image_id), row.file_path)
        first = rows.setdefault(hash((row.file_path, row.person_id, row.split, *row.captions)), row.image_id)
        if first != row.image_id:
            report.add(REPEATED_ROW, f"says the same as row {opened.locate(first)[1]}; remove one of them", *place)
            continue
        earlier = images.setdefault(row.file_path, row.image_id)
        if earlier != row.image_id and one_row_an_image:
            report.add(
                REPEATED_IMAGE, f"lists the image of row {opened.locate(earlier)[1]} again; join the rows", *place
            )
        for number, caption in enumerate(row.captions, 1):
            key = hash((row.file_path, caption))
            if key in captions:
                report.add(REPEATED_CAPTION, f"has a caption (number {number}) that the image has already", *place)
            captions.add(key)
            words = caption.count(" ") + 1
            if words > _MOST_WORDS:
                problem = (
                    f"has a caption (number {number}) of {words} words; with context_length {CONTEXT_LENGTH} at most "
                    f"{_MOST_WORDS} are read: set it higher, or shorten the caption"
                )
                report.add(LONG, problem, *place)


def check_splits(divided: Iterable[PersonRow], opened: OpenRows, report: Report) -> None:
    """Count every split, and report those that are missing or too small, and identities with one image.

    Args:
        divided: One row for each image, with its split.
        opened: Where these rows come from.
        report: Receives counts and findings.
    """
    people: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
    captions: Counter[str] = Counter()
    only: dict[int, tuple[int, str]] = {}
    for row in divided:
        name = row.split or "train"
        people[name][row.person_id] += 1
        captions[name] += len(row.captions)
        only[row.person_id] = (row.image_id, row.file_path)
    images: Counter[int] = Counter()
    for split, numbers in people.items():
        images.update(numbers)
        if numbers:
            report.splits[split] = (len(numbers), numbers.total(), captions[split])
    lacking = {
        "train": "there is no train split: the data can only be evaluated",
        "validation": "there is no validation split: the last epoch is kept, or set select_on: test",
        "test": "there is no test split: nothing measures the result",
    }
    for split, message in lacking.items():
        if split not in report.splits:
            report.add(SPLIT, f"{message}.")
        elif split != "train" and captions[split] < FEWEST_QUERIES:
            has = (
                f"the {split} split has {count(len(people[split]), 'identity')} and {count(captions[split], 'caption')}"
            )
            report.add(SPLIT, f"{has}: one caption is {100 / captions[split]:.1f} percentage points of Rank-1.")
    singles = [person for person, number in images.items() if number == 1]
    if len(singles) == len(images) > 1:
        report.add(
            SINGLE, "each image is an identity of its own: training leaves the classifier out (use_identity is off)."
        )
        return
    for person in singles:
        image_id, path = only[person]
        report.add(
            SINGLE,
            f"is the only image of its identity ({opened.people.get(person, person)})",
            *opened.locate(image_id),
            path,
        )
