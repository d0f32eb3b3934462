"""What Griffe, which reads the docstrings for the site, has to know of ours: `Example:` heads a section of examples."""

import re
from typing import Any

from griffe import Extension, Object


class Examples(Extension):
    """Spell the heading as Griffe does; under any other it would take the prompts for quotations."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Look at the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
