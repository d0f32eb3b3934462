"""The application of a gallery, where FastAPI is installed."""

from importlib.util import find_spec
from typing import Any

from cffa_hf.errors import InputError
from cffa_hf.search import Gallery
from cffa_hf.service.settings import ServiceSettings

PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "multipart")


def check_packages() -> None:
    """Make sure that the packages of the service are installed.

    Raises:
        InputError: If one is missing.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise InputError(f"The service needs the package {missing[0]}; install it with pip install 'cffa_hf[serve]'.")


def create_app(gallery: Gallery, settings: ServiceSettings | None = None) -> Any:
    """Make the ASGI application that serves a gallery.

    Args:
        gallery: Used by no other thread meanwhile; whoever opened it closes it, when the application has ended.
        settings: Limits and keys; None: the defaults, without a key.

    Returns:
        The application of FastAPI; its `service` (in `app.state`) may be told to `drain`.

    Raises:
        InputError: If FastAPI or another package of the service is not installed.
    """
    check_packages()
    from cffa_hf.service.application import application

    return application(gallery, settings or ServiceSettings())
