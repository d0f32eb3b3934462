"""What comes as a form; FastAPI is needed to import this module."""

from typing import Annotated

from fastapi import UploadFile
from pydantic import ConfigDict, Field, Json, model_validator

from cffa_hf.service.messages import Options, Text, Where, check_texts


class ImageSearchRequest(Options):
    """What comes with an uploaded image; `where` is written as JSON."""

    model_config = ConfigDict(strict=False)  # the fields of a form are texts

    image: Annotated[UploadFile, Field(description="A file of an image.")]
    where: Annotated[Json[Where] | None, Field(description="Conditions as in POST /search, as JSON.")] = None
    text: Annotated[Text | None, Field(description="A sentence that the images shall fit as well.")] = None
    text_weight: Annotated[float, Field(ge=0, le=1, description="Of the sentence; the image has the rest.")] = 0.5

    @model_validator(mode="after")
    def _no_blank(self) -> "ImageSearchRequest":
        check_texts([self.text] if self.text is not None else [])
        return self
