"""Publishing a Space of this package: its page, and the modules that it imports."""

import ast
import shutil
from pathlib import Path

from huggingface_hub import CommitInfo

from cffa_hf.publishing.client import commit_folder, open_repository
from cffa_hf.publishing.folders import new_folder
from cffa_hf.publishing.model import PACKAGE

SPACES = {"metric": PACKAGE / "person_retrieval"}


def publish_space(kind: str, repo_id: str, *, private: bool | None = None, token: str | None = None) -> CommitInfo:
    """Publish a Space of this package, so far the `evaluate` metric.

    Args:
        kind: One of `SPACES`.
        repo_id: As for `publish_model`.
        private: As for `publish_model`.
        token: As for `publish_model`.

    Raises:
        InputError: As `publish_model`.
    """
    repository = open_repository(repo_id, "space", private=private, token=token)
    with new_folder() as folder:
        write_space_folder(kind, folder)
        return commit_folder(folder, repository.name, "space", token=token, commit_message=f"Publish {kind}")


def write_space_folder(kind: str, out: Path) -> None:
    """Write the folder of a Space, with the modules of this package that its page imports, found by following the imports."""
    shutil.copytree(SPACES[kind], out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "__init__.py"))
    (out / PACKAGE.name).mkdir()
    (out / PACKAGE.name / "__init__.py").write_text(
        '"""The part of cffa_hf that this page needs."""\n', encoding="utf-8"
    )
    waiting = list(out.glob("*.py"))
    copied: set[Path] = set()
    while waiting:
        for module in own_imports(waiting.pop()) - copied:
            copied.add(module)
            waiting.append(module)
            target = out / PACKAGE.name / module.relative_to(PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(module, target)


def own_imports(file: Path) -> set[Path]:
    """Find the files of this package that a file imports, with the `__init__.py` of the folders that they are in."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] == PACKAGE.name:
                path = PACKAGE.joinpath(*parts[1:])
                above = [parent / "__init__.py" for parent in path.parents if PACKAGE in parent.parents]
                found |= {each for each in (path.with_suffix(".py"), path / "__init__.py", *above) if each.is_file()}
    return found - {PACKAGE / "__init__.py"}
