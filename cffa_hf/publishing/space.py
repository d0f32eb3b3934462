"""Publishing a Space of this package: its page, and the modules that it imports."""

import ast
import shutil
from pathlib import Path

from huggingface_hub import CommitInfo

from cffa_hf.errors import InputError
from cffa_hf.publishing.client import commit_folder, open_repository
from cffa_hf.publishing.folders import upload_folder
from cffa_hf.publishing.model import PACKAGE
from cffa_hf.publishing.search_space import add_search_files

SPACES = {"metric": PACKAGE / "person_retrieval", "search": PACKAGE / "page" / "space"}


def publish_space(
    kind: str,
    repo_id: str,
    *,
    model: str | None = None,
    gallery: str | None = None,
    private: bool | None = None,
    token: str | None = None,
) -> CommitInfo:
    """Publish a Space of this package: the `evaluate` metric, or the search page.

    Args:
        kind: One of `SPACES`.
        repo_id: As for `publish_model`.
        model: As for `write_space_folder`.
        gallery: As for `write_space_folder`.
        private: As for `publish_model`.
        token: As for `publish_model`.

    Raises:
        InputError: As `publish_model` and `write_space_folder`.
    """
    check_options(kind, model, gallery)
    repository = open_repository(repo_id, "space", private=private, token=token)
    with upload_folder(repository.name, f"space {kind}") as folder:
        write_space_folder(kind, folder, model=model, gallery=gallery)
        return commit_folder(folder, repository.name, "space", token=token, commit_message=f"Publish {kind}")


def check_options(kind: str, model: str | None, gallery: str | None) -> None:
    """Check that a model is given where a Space has one, and that and a gallery only there.

    Raises:
        InputError: If it is not.
    """
    if kind == "search" and not model:
        raise InputError(
            "The Space of the search page needs a model; give --model with its folder or its name on the Hub."
        )
    if kind != "search" and (model or gallery):
        raise InputError(f"The Space {kind!r} has neither model nor gallery; leave out --model and --gallery.")


def write_space_folder(kind: str, out: Path, *, model: str | None = None, gallery: str | None = None) -> None:
    """Write the folder of a Space, with the modules of this package that its page imports, found by following the imports.

    Args:
        kind: One of `SPACES`.
        out: The folder; it is made.
        model: Of the search page, and only of it: name on the Hub, or a folder whose model is carried along.
        gallery: Of the search page: name of a gallery that is on the Hub; None: rendered pictures are carried along.

    Raises:
        InputError: If a model is missing, too much, or cannot be carried.
    """
    check_options(kind, model, gallery)
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
    if model:
        add_search_files(out, model, gallery)


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
