"""What Griffe, which reads the docstrings for the site, has to know of ours."""

import re
from typing import Any

from griffe import Class, Extension, Module, Object


class Docstrings(Extension):
    """Leave out what is for those who read the code, and spell the heading of examples as Griffe does."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Look at a module, class, function or attribute."""
        if isinstance(obj, Module) and obj.is_init_module:
            obj.docstring = None  # in which order the files of a room are read
        if obj.docstring:
            # Under any other heading the prompts would be taken for quotations.
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)

    def on_class(self, *, cls: Class, **_: Any) -> None:
        """Take the checks of a dataclass away, which nobody calls."""
        cls.members.pop("__post_init__", None)
