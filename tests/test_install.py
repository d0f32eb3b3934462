"""What pip installs, from the wheel and from the source archive, is the whole package, and works far from the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from cffa_hf.version import VERSION
from tests.processes import SETTINGS

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]
BUILD_FILES = ("pyproject.toml", "setup.cfg", "MANIFEST.in", "README.md", "LICENSE")
BUILD_FILES += ("CHANGELOG.md", "CITATION.cff", "constraints.txt")

# The five lines of README.md, and the package's own door.
SNIPPET = """
import torch, cffa_hf
from pathlib import Path
from PIL import Image
from transformers import AutoModel, AutoProcessor
pictures = [Image.open(path) for path in sorted(Path("demo-data/CUHK-PEDES/imgs").rglob("*.jpg"))[:3]]
sentence = "a woman in a green coat"
model, processor = AutoModel.from_pretrained("outputs/demo").eval(), AutoProcessor.from_pretrained("outputs/demo")
images, texts = processor(images=pictures, return_tensors="pt"), processor(text=[sentence], return_tensors="pt")
scores = model.get_text_features(**texts) @ model.get_image_features(**images).T
assert scores.shape == (1, 3)
assert all(getattr(cffa_hf, name) for name in cffa_hf.__all__)
"""


def built(kind: str, source: Path, out: Path) -> Path:
    """Build an archive of a source folder with the installed setuptools; returns it."""
    code = f"import setuptools.build_meta as build, sys; build.build_{kind}(sys.argv[1])"
    out.mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, "-c", code, out], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = out.iterdir()
    return archive


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> tuple[Path, Path]:
    """Wheel and source archive of a copy of the repository, which old builds in it cannot reach."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("cffa_hf", "configs", "tests"):
        shutil.copytree(REPOSITORY / name, source / name, symlinks=True, ignore=ignore)
    for name in BUILD_FILES:
        shutil.copy(REPOSITORY / name, source / name)
    return built("wheel", source, folder / "wheel"), built("sdist", source, folder / "sdist")


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(archives):
    names = content(archives[0]).keys()
    about = f"cffa_hf-{VERSION}.dist-info"
    expected = {f"cffa_hf/{name}" for name in files_below(REPOSITORY / "cffa_hf") if "__pycache__" not in name}
    expected |= {f"cffa_hf/configs/{name}" for name in files_below(REPOSITORY / "configs")}
    assert {name for name in names if not name.startswith(about)} == expected
    assert f"{about}/licenses/LICENSE" in names


def test_the_source_archive_makes_the_same_wheel_and_has_no_tests(archives, tmp_path):
    with tarfile.open(archives[1]) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert all((source / name).is_file() for name in BUILD_FILES)
    assert {path.name for path in source.iterdir()} == {*BUILD_FILES, "PKG-INFO", "cffa_hf", "cffa_hf.egg-info"}
    assert content(built("wheel", source, tmp_path / "wheel")) == content(archives[0])


def test_metadata(archives):
    (text,) = [text.decode() for name, text in content(archives[0]).items() if name.endswith("/METADATA")]
    head = text.partition("\n\n")[0].splitlines()
    setup = ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    assert "License-Expression: Apache-2.0" in head
    assert f"Requires-Python: {setup['options']['python_requires']}" in head
    extras = {line.removeprefix("Provides-Extra: ") for line in head if line.startswith("Provides-Extra: ")}
    assert extras == set(setup["options.extras_require"])


@pytest.fixture(scope="module")
def installed(archives, tmp_path_factory) -> Path:
    """Programs of an environment with the wheel and the libraries that are installed here, but not the repository."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        programs / "python",
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
    ]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*pip, archives[0]], check=True, env=variables)
    # A path in a .pth file does not start the finders of editable installs that lie there.
    (libraries,) = folder.glob("lib/python*/site-packages")
    (libraries / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return programs


def test_what_the_readme_shows_runs_in_an_empty_folder(installed, tmp_path):
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    variables |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    variables |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}

    def run(*words: object) -> str:
        command = [str(installed / "cffa-hf") if words[0] == "cffa-hf" else str(installed / "python"), *words[1:]]
        done = subprocess.run(
            list(map(str, command)),
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    assert run("cffa-hf", "--version") == f"cffa-hf {VERSION}\n"
    small = {name: value for name, value in SETTINGS.items() if name not in ("init_from", "image_size")}
    small |= {"num_train_epochs": 1, "save_strategy": "epoch", "logging_steps": 10}
    options = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    config, data = ["--config", "demo"], "demo-data/CUHK-PEDES/imgs"
    commands = [
        ["demo-data", "demo-data", "--identities", "6", "2", "3", "--images-per-identity", "2"],
        ["config", "own_data"],
        ["train", "--config", "configs/demo.yaml", *options, "--image_size", "48", "24"],
        ["evaluate", "outputs/demo", *config, "--num_workers", "0", "--report"],
        ["index", data, "gallery", "--checkpoint", "outputs/demo"],
        ["search", "gallery", "a woman in a green coat"],
        ["push", "outputs/demo", "--repo-id", "somebody/something", "--dry-run", "published"],
    ]
    # One process, as each would spend its time on importing.
    code = f"""
import cffa_hf, sys
from cffa_hf.cli import main
assert cffa_hf.__file__.startswith(sys.prefix), cffa_hf.__file__
assert not any(path.startswith({str(REPOSITORY)!r}) and "site-packages" not in path for path in sys.path), sys.path
for words in {commands!r}:
    assert main(words) == 0, words
{SNIPPET}"""
    shown = run("python", "-I", "-c", code)
    assert "dataset: my-data" in shown
    assert (tmp_path / "outputs" / "demo" / "report.html").is_file()
    assert {"README.md", "model.safetensors", "config.json"} <= files_below(tmp_path / "published")
