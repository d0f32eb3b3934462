"""Cleaning of captions, the same for datasets and for queries."""

import html

import ftfy

LONGEST_CAPTION = 20_000
"""Characters; a longer text in a file is none of a person, and takes the tokenizer minutes."""


def clean_caption(text: str) -> str:
    """Repair a caption's encoding and collapse its white space, as CLIP's own tokenizer does before lower-casing.

    Args:
        text: A caption as found in an annotation file or typed by a user; any string.

    Returns:
        The text with mojibake repaired, HTML entities unescaped (twice: annotation files hold `&amp;lt;`), and every
        run of white space collapsed to one space, none at the ends. May be empty. Case is kept.

    Example:
        >>> clean_caption("A man&#39;s  cafÃ©-coloured&amp;lt;coat ")
        "A man's café-coloured<coat"
    """
    if text.isascii() and text.isprintable() and "&" not in text:
        return " ".join(text.split())  # nothing to repair, and most captions are so: 20 times as fast
    repaired = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(repaired.split())
