"""`cffa-hf serve`: a gallery as an HTTP service."""

import argparse
import os
import sys

from cffa_hf.cli.search import open_gallery
from cffa_hf.service import ServiceSettings, listening_socket, serve
from cffa_hf.service.keys import read_keys
from cffa_hf.service.server import check_exposure
from cffa_hf.service.start import check_packages


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
