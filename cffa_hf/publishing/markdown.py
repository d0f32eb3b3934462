"""Texts of records as Markdown shows them: nothing in them is markup, a link, or the end of a table's row."""

import re
from typing import Any
from urllib.parse import quote

LONGEST = 200
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# An underscore within a word is none of Markdown's.
MARKUP = re.compile(r"[\\`*\[\]!|~$#^]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.", re.IGNORECASE)
PLAIN_NAME = re.compile(r"[\w.,:/+@=-]+( [\w.,:/+@=-]+)*")


def plain(text: Any) -> str:
    r"""Return a text on one line, without control characters, cut where it is too long.

    Example:
        >>> plain("x\n# Owned\x1b")
        'x # Owned?'
    """
    words = " ".join(str(text)[: 10 * LONGEST].split())
    words = "".join(letter if letter.isprintable() else "?" for letter in words)
    words = words.replace("<!--", "<! --")  # the marks of a card stand once, also in its metadata
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}..."


def escape(text: Any) -> str:
    r"""Return a text as Markdown that shows it, anywhere but in the first place of a line.

    Example:
        >>> escape("a [link](javascript:x) | <b>bold</b>, my_people")
        'a \\[link\\](javascript:x) \\| &lt;b&gt;bold&lt;/b&gt;, my_people'
    """
    marked = MARKUP.sub(lambda found: "\\" + found[0], plain(text))
    return re.sub("[&<>]", lambda found: ENTITIES[found[0]], marked)


def code(name: Any) -> str:
    r"""Return a name in the letters of code, or as an escaped text where it is no plain name.

    Example:
        >>> code("runs/first"), code("a`b")
        ('`runs/first`', 'a\\\\`b')
    """
    shown = plain(name)
    return f"`{shown}`" if PLAIN_NAME.fullmatch(shown) else escape(shown)


def target(file: str) -> str:
    """Return the name of a file beside the card as the target of a link or the source of an image.

    Example:
        >>> target("a](javascript:x) ranking.png")
        'a%5D%28javascript%3Ax%29%20ranking.png'
    """
    return quote(file, errors="replace")
