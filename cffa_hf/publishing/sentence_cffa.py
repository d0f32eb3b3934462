"""What sentence-transformers runs: captions cleaned as in training. This file travels with published models."""

import html
import re
from collections.abc import Sequence
from typing import Any

import ftfy
from sentence_transformers.base.modality import infer_modality
from sentence_transformers.base.modules import Transformer


class CFFASentences(Transformer):
    """Captions and images as unit vectors whose dot product is the score."""

    def preprocess(self, inputs: Sequence[Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Clean and tokenise captions, or prepare images; a path or address of an image is an image."""
        return super().preprocess([self.cleaned(item) for item in inputs], *args, **kwargs)

    def cleaned(self, item: Any) -> Any:
        """Repair, collapse and lower-case a text, and spell control tokens out; anything else stays as it is."""
        if isinstance(item, dict) and item.keys() == {"text"}:
            text = item["text"]
        elif isinstance(item, str) and infer_modality(item, self.modalities) == "text":
            text = item
        else:
            return item
        tokenizer: Any = self.tokenizer
        text = " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()
        control = "|".join(re.escape(token) for token in (tokenizer.bos_token, tokenizer.eos_token))
        return {"text": re.sub(control, lambda token: " ".join(re.findall(r"\w+|[^\w\s]+", token.group())), text)}

    def get_embedding_dimension(self) -> int:
        """Return the width of the vectors."""
        return self.config.embedding_dim
