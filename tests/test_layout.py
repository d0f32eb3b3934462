"""The order in which modules may import each other, and what the files that travel may import."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cffa_hf"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))
}
LAYERS = [  # each may import what stands before it, and its siblings where that makes no circle
    {
        "errors",
        "version",
        "files",
        "command_line",
        "configuration_cffa",
        "matrix_product",
        "reranking",
        "cpu_layers",
        "cpu_memory",
    }
    | {"losses", "metrics", "significance", "arguments"},
    {"modeling_cffa", "data"},
    {"evaluation"},
    {"..."},  # the trainer and everything else
    {"cli", "__init__"},
]
TRAVELLING = ("configuration_cffa", "modeling_cffa")


def imports_of(path: Path) -> set[str]:
    """Names of all modules that a file imports, anywhere in it; relative ones with their dot."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            inside = {f"{module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found.update(inside or {module})
    return found


def part_of(module: str) -> str:
    """First name below the package: `data` of `cffa_hf.data.pairs`."""
    return [*module.split("."), "__init__"][1]


def layer_of(module: str) -> int:
    part = part_of(module)
    return next((index for index, layer in enumerate(LAYERS) if part in layer), 3)


GRAPH = {
    module: {("cffa_hf." + name[1:]) if name.startswith(".") else name for name in imports_of(path)}
    for module, path in MODULES.items()
}
OWN = {module: {name for name in names if name.split(".")[0] == "cffa_hf"} for module, names in GRAPH.items()}


@pytest.mark.parametrize("module", MODULES)
def test_no_import_points_backwards(module):
    backwards = {name for name in OWN[module] if layer_of(name) > layer_of(module)}
    assert not backwards, f"{module} must not import {backwards}"


def test_no_circles():
    above = {module: {name for name in OWN[module] if name in MODULES} for module in MODULES}
    while free := [module for module, names in above.items() if not names & above.keys()]:
        for module in free:
            del above[module]
    assert not above


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("cffa_hf.data")])
def test_the_data_know_only_data_and_errors(module):
    assert {part_of(name) for name in OWN[module]} <= {"data", "errors", "files"}


def test_the_metrics_know_only_errors_and_the_matrix_product():
    assert {part_of(name) for name in OWN["cffa_hf.metrics"]} <= {"errors", "matrix_product"}
    assert not OWN["cffa_hf.matrix_product"]
    assert not OWN["cffa_hf.losses"]


@pytest.mark.parametrize("module", TRAVELLING)
def test_what_travels_imports_only_torch_transformers_and_its_siblings(module):
    standard = {"collections.abc", "dataclasses", "math", "typing"}
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            assert node.module in TRAVELLING  # `from .x import y`: the one form that the loader follows
            continue
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            continue
        assert all(name in standard or name.split(".")[0] in {"torch", "transformers"} for name in names), names


@pytest.mark.parametrize("module", MODULES)
def test_manners(module):
    text = MODULES[module].read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for word in ("TYPE_CHECKING", "TODO", "FIXME", "NotImplementedError", "/tmp/"):
        assert word not in text
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.Import) and len(node.names) > 1), "import a, b"
    # The model is one flat file by the library's convention, for it travels.
    assert len(text.splitlines()) <= (700 if module == "cffa_hf.modeling_cffa" else 500)


def test_no_module_is_named_like_a_dependency():
    names = {module.rpartition(".")[2] for module in MODULES}
    assert not names & {"datasets", "evaluate", "utils", "torch", "transformers", "accelerate", "tokenizers", "numpy"}


@pytest.mark.parametrize("script", sorted(PACKAGE.parent.glob("*.py")), ids=lambda path: path.name)
def test_scripts_are_short_and_imported_by_nobody(script):
    assert len(script.read_text().splitlines()) <= 200
    assert not any(script.stem in names for names in GRAPH.values())
