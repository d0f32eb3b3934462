"""A gallery as an HTTP service for many users at once.

Read application.py (the endpoints), messages.py and forms.py (what they take and give), service.py (what they ask),
batching.py (queries of many users are encoded together) and work.py (what the one thread does with them). gate.py lets
requests in by key, rate and size (keys.py, limits.py, exchange.py); measures.py counts; description.py is the page of
documentation; server.py listens and ends cleanly. FastAPI is imported when an application is made.
"""

from cffa_hf.service.server import listening_socket, serve
from cffa_hf.service.settings import ServiceSettings
from cffa_hf.service.start import create_app

__all__ = [
    "ServiceSettings",
    "create_app",
    "listening_socket",
    "serve",
]
