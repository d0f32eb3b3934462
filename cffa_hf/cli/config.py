"""`cffa-hf config`: list the configs of the package, or print one, to be copied and changed."""

import argparse

from cffa_hf.arguments.config_files import shipped_configs
from cffa_hf.errors import InputError


def add_parser(subparsers) -> None:
    """Add the subcommand to those of `cffa-hf`."""
    parser = subparsers.add_parser("config", help="list the configs of the package, or print one")
    parser.add_argument("name", nargs="?", metavar="NAME", help="such as own_data; default: list all names")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the names of all configs with what each is for, or the text of one."""
    configs = shipped_configs()
    if arguments.name is None:
        width = max(map(len, configs), default=0)
        for name, file in configs.items():
            first = file.read_text(encoding="utf-8").splitlines()[0]
            print(f"{name:{width}}  {first.lstrip('# ')}")
        return
    name = arguments.name.removeprefix("configs/").removesuffix(".yaml")
    if name not in configs:
        raise InputError(f"there is no config {arguments.name}; the package has {', '.join(configs)}.")
    print(configs[name].read_text(encoding="utf-8"), end="")
