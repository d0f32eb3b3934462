"""Addresses of servers: what is given, what is recorded, and a gallery's name on the server."""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from cffa_hf.errors import InputError, keep_secret

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")
SECRET = {"password", "sslpassword", "api_key", "api-key"}


@dataclass(frozen=True)
class ServerAddress:
    """Where a server is, and what the gallery is called there.

    Attributes:
        full: As it was given, without the name; may hold a password.
        public: The same without password; this may be recorded and printed.
        name: Of the gallery on the server, or "" if none was given.
        secrets: Texts that must not be printed.
    """

    full: str
    public: str
    name: str
    secrets: tuple[str, ...] = ()

    def hide(self, text: str) -> str:
        """Take the secrets out of a text, such as the message of a library."""
        for secret in self.secrets:
            text = text.replace(secret, "...")
        return text


def parse_address(address: str) -> ServerAddress:
    """Take the address of a server apart.

    Args:
        address: Such as `postgresql://user@host/database#lobby`; the part behind # is the gallery's name there.

    Raises:
        InputError: If it is no address, or the name is no plain word.

    Example:
        >>> parse_address("postgresql://me:secret@host/db#lobby").public
        'postgresql://me@host/db'
    """
    try:
        parts = urlsplit(address)
        given, hidden = parts.password, parse_qsl(parts.query, keep_blank_values=True)
    except ValueError as error:
        raise InputError(
            "The address of the server cannot be read; it looks like postgresql://user@host/database#name."
        ) from error
    if parts.fragment and not NAME.match(parts.fragment):
        # What stands there is not quoted: it may be the rest of a password with a #.
        raise InputError(
            "A gallery on a server is named, behind the #, with small letters, digits and underscores, at most 40; a # within "
            "a password is written %23."
        )
    user, at, place = parts.netloc.rpartition("@")
    netloc = user.partition(":")[0] + at + place
    query = urlencode([(key, value) for key, value in hidden if key.lower() not in SECRET])
    secrets = {given or "", unquote(given or ""), *(value for key, value in hidden if key.lower() in SECRET)} - {""}
    keep_secret(*secrets)
    public = urlunsplit(parts._replace(netloc=netloc, query=query, fragment=""))
    if parts.scheme and not netloc:  # an address of the machine itself keeps its three strokes
        public = public.replace(":/", ":///", 1)
    return ServerAddress(
        address.partition("#")[0],
        public,
        parts.fragment,
        tuple(sorted(secrets, key=len, reverse=True)),
    )
