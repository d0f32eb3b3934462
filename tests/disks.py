"""Small disks for tests: full, read-only, or unmounted in the middle; tests are skipped where none can be mounted."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class Disk:
    """A file system in memory.

    Args:
        folder: Where it is mounted.
        size: In KiB.
    """

    def __init__(self, folder: Path, size: int = 1024):
        self.folder = folder
        folder.mkdir()
        self._mount("-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder))
        self.mounted = True

    def make_read_only(self) -> None:
        """Let nothing more be written on it."""
        self._mount("-o", "remount,ro", str(self.folder))

    def unmount(self) -> None:
        """Take it away at once, even while files on it are open."""
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
            self.mounted = False

    def _mount(self, *words: str) -> None:
        try:
            subprocess.run(["mount", *words], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no disk can be mounted here ({error})")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of one MiB."""
    mounted = Disk(tmp_path / "disk")
    yield mounted
    mounted.unmount()
