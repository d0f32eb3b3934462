"""`cffa-hf config`: list the configs of the package, or print one, to be copied and changed."""

import argparse
import itertools
import re
import textwrap
from pathlib import Path

from cffa_hf.arguments.config_files import closest_config, shipped_configs
from cffa_hf.errors import InputError


def run(arguments: argparse.Namespace) -> None:
    """Print the names of all configs with what each is for, or the text of one."""
    configs = shipped_configs()
    if arguments.name is None:
        width = max(map(len, configs), default=0)
        for name, file in configs.items():
            print(f"{name:{width}}  {purpose(file)}")
        return
    name = arguments.name.removeprefix("configs/").removesuffix(".yaml")
    if name not in configs:
        close = closest_config(name, configs)
        hint = f"did you mean '{close}'? " if close else ""
        raise InputError(f"the package has no config {arguments.name}; {hint}`cffa-hf config` lists those it has.")
    print(configs[name].read_text(encoding="utf-8"), end="")


def purpose(file: Path) -> str:
    """Return the first sentence of the comment that a config begins with, shortened."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    sentence = re.split(r"[.;](?=\s|$)", " ".join(line.lstrip("# ") for line in lines), maxsplit=1)[0]
    return textwrap.shorten(sentence, 100, placeholder=" ...")
