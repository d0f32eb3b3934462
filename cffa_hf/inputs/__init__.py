"""One image and one caption, as the model sees them.

Read captions.py, images.py, processor.py: a caption is cleaned, an image is opened safely and resized, and the
processor joins image preparation and tokenizer.
"""

from cffa_hf.inputs.captions import clean_caption
from cffa_hf.inputs.images import load_pixels, normalise_images, read_image
from cffa_hf.inputs.processor import add_mask_token, build_processor, clip_tokenizer, encode_captions, train_tokenizer

__all__ = [
    "add_mask_token",
    "build_processor",
    "clean_caption",
    "clip_tokenizer",
    "encode_captions",
    "load_pixels",
    "normalise_images",
    "read_image",
    "train_tokenizer",
]
