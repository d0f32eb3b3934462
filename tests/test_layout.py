"""The order in which modules may import each other, and what the files that travel may import."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cffa_hf"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))
}
# The floors: a room imports itself and the floors above it; nothing beside it, nothing below.
FLOORS = [
    "errors version names locks progress files csv_files json_files command_line matrix_product precision configuration_cffa "
    "losses loss_terms",
    "modeling_cffa auto_classes inputs metrics demo cpu_layers",
    "data checkpoints inference arguments person_retrieval",
    "evaluation records search data_check",
    "reporting publishing",
    "training service page",
    "cli __init__",
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
# Within a floor: the guard, the locks, the writer of files and the precision know the errors, the terms the losses, and so on.
STEPS = {
    "csv_files": {"errors"},
    "json_files": {"errors"},
    "locks": {"errors"},
    "files": {"errors", "locks"},
    "loss_terms": {"losses"},
    "precision": {"errors", "names"},
    "command_line": {"errors", "version"},
    "modeling_cffa": {"configuration_cffa"},
    "auto_classes": {"configuration_cffa", "modeling_cffa"},
}
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


GRAPH = {
    module: {("cffa_hf." + name[1:]) if name.startswith(".") else name for name in imports_of(path)}
    for module, path in MODULES.items()
}
OWN = {module: {name for name in names if name.split(".")[0] == "cffa_hf"} for module, names in GRAPH.items()}


def test_every_room_is_known():
    assert {part_of(module) for module in MODULES} == set(FLOOR_OF)


@pytest.mark.parametrize("module", MODULES)
def test_no_import_points_backwards(module):
    room = part_of(module)
    allowed = {other for other, floor in FLOOR_OF.items() if floor < FLOOR_OF[room]} | {room} | STEPS.get(room, set())
    assert {part_of(name) for name in OWN[module]} <= allowed


def test_no_circles():
    above = {module: {name for name in OWN[module] if name in MODULES} for module in MODULES}
    while free := [module for module, names in above.items() if not names & above.keys()]:
        for module in free:
            del above[module]
    assert not above


def test_the_data_know_no_model_and_no_command():
    for module in MODULES:
        if part_of(module) == "data":
            known = {
                "data",
                "errors",
                "files",
                "csv_files",
                "json_files",
                "names",
                "progress",
                "inputs",
                "configuration_cffa",
            }
            assert {part_of(name) for name in OWN[module]} <= known


def test_the_numbers_know_no_model():
    for module in MODULES:
        if part_of(module) == "metrics":
            assert {part_of(name) for name in OWN[module]} <= {"metrics", "errors", "matrix_product"}
    assert not OWN["cffa_hf.matrix_product"]
    assert not OWN["cffa_hf.losses"]


@pytest.mark.parametrize("room", sorted(FLOOR_OF))
def test_a_room_says_what_is_in_it(room):
    text = MODULES.get(f"cffa_hf.{room}.__init__", PACKAGE / f"{room}.py").read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    if f"cffa_hf.{room}.__init__" in MODULES and room not in ("cli", "person_retrieval"):
        assert "__all__ = [" in text


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
    assert len(text.splitlines()) <= (700 if module == "cffa_hf.modeling_cffa" else 450)


@pytest.mark.parametrize("module", MODULES)
def test_functions_fit_on_a_page(module):
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert not [node.name for node in functions if node.end_lineno - node.lineno + 1 > 60]


def test_no_module_is_named_like_a_dependency():
    names = {module.rpartition(".")[2] for module in MODULES}
    assert not names & {"datasets", "evaluate", "utils", "torch", "transformers", "accelerate", "tokenizers", "numpy"}


@pytest.mark.parametrize("script", sorted(PACKAGE.parent.glob("*.py")), ids=lambda path: path.name)
def test_scripts_are_short_and_imported_by_nobody(script):
    assert len(script.read_text().splitlines()) <= 200
    assert not any(script.stem in names for names in GRAPH.values())
