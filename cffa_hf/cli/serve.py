"""`cffa-hf serve`: a gallery as an HTTP service."""

import argparse
import os
import sys
from pathlib import Path

from cffa_hf.cli.search import open_gallery
from cffa_hf.precision import INFERENCE_PRECISIONS
from cffa_hf.service import ServiceSettings, listening_socket, serve
from cffa_hf.service.keys import KEY_VARIABLE, read_keys
from cffa_hf.service.server import check_exposure
from cffa_hf.service.start import check_packages


def add_parser(subparsers) -> None:
    """Add the subcommand to those of `cffa-hf`."""
    parser = subparsers.add_parser("serve", help="serve a gallery over HTTP")
    parser.add_argument("gallery", type=Path, metavar="GALLERY", help="what cffa-hf index wrote")
    parser.add_argument(
        "--checkpoint", help="folder of the model, or its name on the Hub; default: as the gallery says"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: this machine only")
    parser.add_argument("--port", type=int, default=8000, help="0: a free one, which is printed")
    parser.add_argument("--key-file", type=Path, help=f"keys that open the service, one a line; also: {KEY_VARIABLE}")
    parser.add_argument("--without-key", action="store_true", help="be open to other machines without a key")
    parser.add_argument("--behind-proxy", action="store_true", help="a proxy on this machine names the clients")
    parser.add_argument("--device", help="cpu, cuda ...; default: a GPU if there is one")
    parser.add_argument("--precision", choices=INFERENCE_PRECISIONS, help="default: that of the gallery")
    parser.add_argument("--batch-size", type=int, default=32, help="sentences encoded together")
    parser.add_argument("--gather", type=float, default=8, metavar="MS", help="wait of a batch for more queries")
    parser.add_argument("--queue-size", type=int, default=128, help="sentences that may wait")
    parser.add_argument("--deadline", type=float, default=10, metavar="SECONDS", help="of a request")
    parser.add_argument("--requests-per-minute", type=int, default=600, help="of one client; 0: no limit")
    parser.add_argument("--access-log", action="store_true", help="print a line for each request, without its content")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Open the gallery with its model and serve it until SIGTERM or Ctrl+C."""
    check_packages()
    keys = read_keys(arguments.key_file, os.environ)
    is_open = check_exposure(
        arguments.host, keys, behind_proxy=arguments.behind_proxy, without_key=arguments.without_key
    )
    settings = ServiceSettings(
        keys=keys,
        batch_size=arguments.batch_size,
        gather_milliseconds=arguments.gather,
        queue_size=arguments.queue_size,
        deadline_seconds=arguments.deadline,
        requests_per_minute=arguments.requests_per_minute,
        local_names_only=not keys and not is_open,
    )
    with listening_socket(arguments.host, arguments.port) as listening:
        gallery = open_gallery(arguments)
        host, port = listening.getsockname()[:2]
        if is_open:
            print("warning: other machines can search this gallery, for there is no key", file=sys.stderr)
        name = f"[{host}]" if ":" in host else host
        print(f"serving {len(gallery):,} images on http://{name}:{port}, described in /docs", flush=True)
        serve(
            gallery,
            settings,
            listening,
            behind_proxy=arguments.behind_proxy,
            access_log=arguments.access_log,
        )
