"""How a file is damaged: its bytes, its values, or its place."""

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

HUGE = int("9" * 4000)
HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), HUGE, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", " ", "\x00", "\ud800", "../../etc/passwd", "/etc/passwd", "a\nb", "-1", "1e999", "nan", "null", "x" * 5000,
    "<script>alert(1)</script>", "%s%n", "${HOME}", "C:\\x.jpg", "\u202e", "é", "e\u0301", "😀",
    [], {}, [[]], [None], {"": None}, [1, "a", None], {"a": {"a": {"a": []}}}, [[[[[[[[]]]]]]]],
]  # fmt: skip


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat, insert or overwrite a few places."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[min(place, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[place:]
        elif kind == 2:
            data[place:place] = rng.randbytes(rng.choice((1, 4, 64)))
        elif kind == 3:
            data[place : place + rng.choice((1, 4, 64))] = b"\x00" * rng.choice((1, 4, 8))
        elif kind == 4:
            data[place:place] = data[max(0, place - 40) : place]
        else:
            del data[place : place + rng.choice((1, 8, 100))]
    return bytes(data)


def mutate_value(value: Any, rng: random.Random) -> Any:
    """Replace, remove, add or double one node of a structure of JSON."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        changed = dict(value)
        action = rng.randrange(6)
        if action == 0:
            del changed[key]
        elif action == 1:
            changed[rng.choice(("extra", "", "id", "__class__"))] = rng.choice(HOSTILE)
        elif action == 2:
            changed[key] = rng.choice(HOSTILE)
        else:
            changed[key] = mutate_value(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        changed_list = list(value)
        action = rng.randrange(6)
        if action == 0:
            del changed_list[place]
        elif action == 1:
            changed_list.insert(place, changed_list[place])
        elif action == 2:
            changed_list[place] = rng.choice(HOSTILE)
        else:
            changed_list[place] = mutate_value(value[place], rng)
        return changed_list
    return rng.choice(HOSTILE)


def mutate_json(text: str, rng: random.Random) -> bytes:
    """Change one value of a JSON document, or of a line of JSON lines; now and then nest it deep."""
    if rng.random() < 0.03:
        return b"[" * 100_000 + text.encode()
    lines = text.splitlines() if not _is_json(text) else [text]
    place = rng.randrange(len(lines))
    try:
        changed = json.dumps(mutate_value(json.loads(lines[place]), rng))
    except ValueError:
        return mutate_bytes(text.encode(), rng)
    return "\n".join([*lines[:place], changed, *lines[place + 1 :]]).encode("utf-8", "surrogatepass")


def mutate_yaml(text: str, rng: random.Random) -> bytes:
    """Change the value or the key of one line."""
    lines = text.splitlines()
    place = rng.choice([index for index, line in enumerate(lines) if ":" in line])
    key, _, value = lines[place].partition(":")
    hostile = rng.choice((
        "null", "-1", "0", "1e999", ".nan", ".inf", "2024-13-45", "!!int abc", "!!python/object/apply:os.system [id]",
        "[]", "{}", "[[", "&a [*a]", "*b", "'", '"\\0"', '"\\ud800"', "x" * 3000, "9" * 5000, "true", "~", "é", "[1, 2, 3]",
        "{a: 1}", "../..", "/etc/passwd", "0x10", "1_000", "|",
    ))  # fmt: skip
    action = rng.randrange(4)
    if action == 0:
        lines[place] = f"{key}: {hostile}"
    elif action == 1:
        lines[place] = f"{key}{rng.choice(('s', ' ', '_', '.'))}:{value}"
    elif action == 2:
        lines.insert(place, lines[place])
    else:
        lines[place] = f"{rng.choice(('seed', 'learning_rate', 'per_device_train_batch_size'))}: {hostile}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def mutate_place(path: Path, rng: random.Random) -> str:
    """Put something else where a file was: nothing, a folder, a pipe, a device, a loop of links."""
    path.unlink()
    kind = rng.choice(("nothing", "folder", "pipe", "device", "loop", "outside", "empty"))
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to(rng.choice(("/dev/zero", "/dev/null", "/dev/stdin")))
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "outside":
        path.symlink_to("/etc/passwd")
    elif kind == "empty":
        path.write_bytes(b"")
    return kind


def damage(path: Path, rng: random.Random) -> str:
    """Damage one file in a way that suits its kind; return what was done."""
    if rng.random() < 0.08:
        return f"{path.name}: {mutate_place(path, rng)}"
    content = path.read_bytes()
    change: Callable[[str, random.Random], bytes] | None = None
    if path.suffix in (".json", ".jsonl"):
        change = mutate_json
    elif path.suffix in (".yaml", ".yml"):
        change = mutate_yaml
    if change is None or rng.random() < 0.3:
        path.write_bytes(mutate_bytes(content, rng))
        return f"{path.name}: bytes"
    path.write_bytes(change(content.decode("utf-8"), rng))
    return f"{path.name}: {change.__name__}"


def hostile_words(names: list[str], rng: random.Random) -> list[str]:
    """Return a command line of a few settings with values that nobody would give."""
    words = []
    for name in rng.sample(names, rng.choice((1, 2, 4))):
        value = rng.choice([*HOSTILE[:33], 3, 1e-3, "auto", "float32", "no", "steps", "epoch", "true", "false"])
        text = value if isinstance(value, str) else "9" * 5000 if value == HUGE else str(value)
        words += [f"--{name}", re.sub("\x00|\ud800", "?", text)]
    return words


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
