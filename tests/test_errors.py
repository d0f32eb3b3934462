"""The sentences of errors: written alike, whatever they quote."""

import ast
from pathlib import Path

import pytest

from cffa_hf.command_line import CommandParser
from cffa_hf.errors import InputError, explained, one_line

PACKAGE = Path(__file__).resolve().parents[1] / "cffa_hf"
FILES = sorted(PACKAGE.rglob("*.py"))
# What a message may end in instead of a full stop: another message, which has its own.
QUOTED = {"error", "reason"}


def endings(message: ast.expr) -> list[str]:
    """The last characters of a message in the code, or the name of the variable in its last place."""
    if isinstance(message, ast.Constant):
        return [str(message.value)]
    if isinstance(message, ast.JoinedStr):
        last = message.values[-1]
        return [ast.unparse(last.value) if isinstance(last, ast.FormattedValue) else str(ast.literal_eval(last))]
    return []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_messages_end_with_one_full_stop(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("InputError", "RunStopped"):
            for end in endings(node.args[0]):
                assert end in QUOTED or (end.endswith(".") and not end.endswith("..")), ast.unparse(node)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("two\n  lines."), "two lines"),
        (ValueError("a long message"), "a long mes"),
        (EOFError(), "EOFError"),
        (ValueError("..."), "ValueError"),
    ],
)
def test_an_error_on_one_line(error, text):
    assert one_line(error, 10) == text


def test_errors_of_libraries_are_explained_and_others_pass():
    with (
        pytest.raises(InputError, match=r"^these settings make no model: three\.$"),
        explained("these settings make no model", ValueError),
    ):
        raise ValueError("wrapped") from TypeError("three")
    with pytest.raises(InputError, match=r"^as it is\.$"), explained("these settings make no model", ValueError):
        raise InputError("as it is.")
    with pytest.raises(KeyError), explained("these settings make no model", ValueError):
        raise KeyError("three")


def test_options_with_underscores_are_those_with_hyphens():
    parser = CommandParser()
    parser.add_subparsers(dest="command").add_parser("draw").add_argument("--images-per-identity", type=int)
    for words in (["--images-per-identity", "3"], ["--images_per_identity", "3"], ["--images_per_identity=3"]):
        assert parser.parse_args(["draw", *words]).images_per_identity == 3
    assert "--images-per-identity" in parser._subparsers._group_actions[0].choices["draw"].format_help()
    assert "images_per_identity" not in parser._subparsers._group_actions[0].choices["draw"].format_help()
