"""The processor: which pixels and which tokens the model sees.

A stock `CLIPProcessor` is enough, so that no processor code travels with a published model. What is particular to this
package is inside it: images are resized to a rectangle, and the tokenizer has a mask token. Special tokens are the last
three of the vocabulary of size V: mask V-3, start V-2, end V-1.
"""

import gzip
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, trainers
from transformers import CLIPProcessor, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from cffa_hf.configuration_cffa import CONTEXT_LENGTH, IMAGE_SIZE
from cffa_hf.errors import InputError
from cffa_hf.inputs.captions import clean_caption

START_TOKEN = "<|startoftext|>"
END_TOKEN = "<|endoftext|>"
MASK_TOKEN = "<|mask|>"
CLIP_MERGES = 49152 - 256 - 2
"""CLIP's merges file is longer than its vocabulary: these many of its lines count."""


def clip_tokenizer(merges: str | Path) -> CLIPTokenizer:
    """Build CLIP's tokenizer offline, its last merge (`jekyll</w>`, id 49405) replaced by the mask token.

    Words spelt with the lost merge still tokenise, into two pieces.

    Args:
        merges: Path of `bpe_simple_vocab_16e6.txt.gz`, as CLIP's repository holds it (gzip-compressed or plain text).

    Returns:
        A tokenizer of 49,408 ids: mask 49405, start 49406, end (and padding) 49407.

    Raises:
        InputError: The file cannot be read, or does not hold CLIP's merges.
    """
    try:
        with (gzip.open if Path(merges).suffix == ".gz" else open)(merges, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")[1 : CLIP_MERGES + 1]  # the first line is a comment
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"CLIP's merges cannot be read from {merges} ({error}); give its .txt.gz file.") from error
    pairs = [tuple(line.split()) for line in lines]
    if len(pairs) != CLIP_MERGES or any(len(pair) != 2 for pair in pairs):
        raise InputError(f"{merges} does not hold CLIP's {CLIP_MERGES} merges, one pair a line; give CLIP's own file.")
    return _assemble(_byte_tokens() + ["".join(pair) for pair in pairs[:-1]], pairs[:-1])


def add_mask_token(tokenizer: CLIPTokenizer) -> CLIPTokenizer:
    """Return a copy of a CLIP tokenizer whose last merge, id V-3, is replaced by the mask token; it pads with the end token.

    The vocabulary keeps its size, so that the token embeddings of a CLIP checkpoint fit. A tokenizer that has the mask
    token there already is returned as it is.

    Raises:
        InputError: The tokenizer does not end in (last merge, start token, end token), as all of CLIP's do.

    Example:
        >>> tokenizer = train_tokenizer(["a man in a red coat"], 520)
        >>> add_mask_token(tokenizer) is tokenizer  # it has the mask token already
        True
    """
    vocabulary = tokenizer.get_vocab()
    size = len(vocabulary)
    if vocabulary.get(MASK_TOKEN) == size - 3 and tokenizer.mask_token == MASK_TOKEN:
        return tokenizer
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    found = [vocabulary[token] for token in tokens[-2:]], (tokenizer.bos_token_id, tokenizer.eos_token_id)
    if found != ([size - 2, size - 1], (size - 2, size - 1)) or not merges or tokens[-3] != "".join(merges[-1]):
        raise InputError(
            f"The tokenizer {tokenizer.name_or_path!r} has no place for a mask token, because its last three ids are "
            "not a last merge, the start and the end token; give the tokenizer of a CLIP checkpoint."
        )
    return _assemble(
        tokens[:-3],
        merges[:-1],
        bos_token=str(tokenizer.bos_token),
        eos_token=str(tokenizer.eos_token),
        unk_token=str(tokenizer.unk_token),
        model_max_length=tokenizer.model_max_length,
    )


def train_tokenizer(captions: Iterable[str], vocabulary_size: int) -> CLIPTokenizer:
    """Train a small byte-level tokenizer of CLIP's kind on captions; the same captions give the same tokenizer.

    Args:
        captions: Any texts; they are cleaned and lower-cased here.
        vocabulary_size: Wanted number of ids, at least 516. It is an upper bound: few captions fill fewer. The true
            size is `len(tokenizer)`, and the last three ids are the special ones in any case.

    Raises:
        InputError: The size is too small for the 512 byte tokens, three special tokens and one merge.

    Example:
        >>> tokenizer = train_tokenizer(["a man in a red coat", "a woman in a red hat"], 530)
        >>> len(tokenizer), tokenizer.mask_token_id
        (526, 523)
    """
    alphabet = _byte_tokens()
    if vocabulary_size < len(alphabet) + 4:
        raise InputError(
            f"vocabulary_size is {vocabulary_size}, but must be at least {len(alphabet) + 4}: "
            f"{len(alphabet)} byte tokens, 3 special tokens and one merge."
        )
    template = _assemble(alphabet, []).backend_tokenizer
    learner = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = template.normalizer, template.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - 3,
        end_of_word_suffix="</w>",
        # All byte tokens, since a byte that the captions lack would be unknown later, and unknown means end of text. In
        # a fixed order, since the trainer breaks ties by id and would hand out ids in the order of a random hash map.
        special_tokens=alphabet,
        show_progress=False,
    )
    learner.train_from_iterator((_normalise(caption) for caption in captions), trainer)
    model = json.loads(learner.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return _assemble(tokens, [tuple(pair) for pair in model["merges"]])


def build_processor(
    tokenizer: CLIPTokenizer, image_size: tuple[int, int] = IMAGE_SIZE, context_length: int = CONTEXT_LENGTH
) -> CLIPProcessor:
    """Join a tokenizer and the image preparation into a stock `CLIPProcessor`.

    Images are converted to RGB, resized bilinearly to exactly `image_size`, neither cropped nor padded, and normalised
    with CLIP's mean and standard deviation. The PIL image processor is built whether or not torchvision is installed,
    and is saved under the name that both know, so that the folder loads with or without torchvision.

    Args:
        tokenizer: With a mask token; its `model_max_length` is set.
        image_size: Height and width in pixels.
        context_length: Number of tokens to which `truncation=True` cuts, start and end included.

    Example:
        >>> processor = build_processor(train_tokenizer(["a man in a red coat"], 520), image_size=(96, 32))
        >>> processor.image_processor.size["height"], processor.tokenizer.model_max_length
        (96, 77)
    """
    height, width = image_size
    tokenizer.model_max_length = context_length
    image_processor = CLIPImageProcessorPil(
        do_resize=True,
        size={"height": height, "width": width},
        resample=PILImageResampling.BILINEAR,
        do_center_crop=False,
        do_rescale=True,
        do_normalize=True,
        image_mean=list(OPENAI_CLIP_MEAN),
        image_std=list(OPENAI_CLIP_STD),
        do_convert_rgb=True,
    )
    return CLIPProcessor(image_processor=image_processor, tokenizer=tokenizer)


def encode_captions(
    tokenizer: CLIPTokenizer, captions: Sequence[str], context_length: int = CONTEXT_LENGTH
) -> list[list[int]]:
    """Turn captions into ids, unpadded: start token, words, end token.

    Args:
        tokenizer: Of this module.
        captions: Raw or cleaned texts. A start or end token that is spelt out in a caption is read as plain text, a
            mask token as the mask.
        context_length: Longest result; a longer caption is cut and keeps the end token in its last place.

    Returns:
        One list of 2 to `context_length` ids a caption.

    Example:
        >>> tokenizer = train_tokenizer(["a man in a red coat"], 520)
        >>> [len(ids) for ids in encode_captions(tokenizer, ["", "a", "a red coat, a red coat"], context_length=8)]
        [2, 3, 8]
    """
    control = re.compile("|".join(re.escape(str(token)) for token in (tokenizer.bos_token, tokenizer.eos_token)))
    texts = [control.sub(_spell_out, _normalise(caption)) for caption in captions]
    if not texts:
        return []
    # Cut here: the tokenizer would remember a length given to it, save it and prefer it to its own maximum once loaded.
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    encoded = [encoding.ids for encoding in backend.encode_batch_fast(texts)]
    return [ids if len(ids) <= context_length else [*ids[: context_length - 1], ids[-1]] for ids in encoded]


def _spell_out(match: re.Match[str]) -> str:
    """Break a control token into the words and signs that the tokenizer sees in it once it is no token of its own."""
    return " ".join(re.findall(r"\w+|[^\w\s]+", match.group()))


def _normalise(caption: str) -> str:
    # Python's lower-casing is CLIP's; the tokenizer's own one differs, for instance at the Greek final sigma.
    return clean_caption(caption).lower()


def _byte_tokens() -> list[str]:
    """CLIP's first 512 tokens: every byte as a visible character, inside a word and at the end of one."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = len(set(range(256)) - set(visible))
    characters = [chr(byte) for byte in visible] + [chr(256 + place) for place in range(hidden)]
    return characters + [character + "</w>" for character in characters]


def _assemble(
    tokens: Sequence[str],
    merges: Sequence[tuple[str, ...]],
    bos_token: str = START_TOKEN,
    eos_token: str = END_TOKEN,
    unk_token: str = END_TOKEN,
    model_max_length: int = CONTEXT_LENGTH,
) -> CLIPTokenizer:
    """Build the tokenizer of these ordinary tokens, in the order of their ids, followed by mask, start and end."""
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate([*tokens, MASK_TOKEN, bos_token, eos_token])},
        merges=list(merges),  # pairs are accepted, and are what its own files hold
        bos_token=bos_token,
        eos_token=eos_token,
        unk_token=unk_token,
        pad_token=eos_token,
        mask_token=MASK_TOKEN,
        model_max_length=model_max_length,
    )
