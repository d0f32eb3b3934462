"""What a target is, and how most of them damage their files."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutations import damage


@dataclass(frozen=True)
class Target:
    """Something that is read.

    Attributes:
        name: In the table.
        prepare: Writes whole files into a folder.
        damage: Damages one of them, and says what it did.
        read: Reads them as a user's command does.
    """

    name: str
    prepare: Callable[[Path], None]
    damage: Callable[[Path, random.Random], str]
    read: Callable[[Path], object]


def damage_file(*patterns: str) -> Callable[[Path, random.Random], str]:
    """Damage one of the files that fit a pattern."""

    def change(folder: Path, rng: random.Random) -> str:
        files = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
        return damage(rng.choice(files), rng)

    return change


def checked(data) -> None:
    """Do what training does before its first step: read every image."""
    from cffa_hf.data.checks import check_images

    check_images(data, progress=False)


def void(_: object) -> None:
    """Forget a value."""
