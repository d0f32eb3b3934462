"""What is opened is whole, fits together and runs nothing, through every door that a checkpoint comes in by."""

import json
import os
import re
import runpy
import shutil
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, CLIPProcessor

from cffa_hf.arguments.model import ModelArguments
from cffa_hf.checkpoints.conversion import convert
from cffa_hf.checkpoints.files import read_state_dict
from cffa_hf.checkpoints.folders import check_finite
from cffa_hf.checkpoints.provenance import Checkpoint, open_checkpoint
from cffa_hf.cli import main
from cffa_hf.errors import InputError
from cffa_hf.inputs.processor import build_processor, train_tokenizer
from cffa_hf.modeling_cffa import CFFAForPreTraining, CFFAModel
from cffa_hf.publishing.model import dry_run_model
from cffa_hf.training.start import starting_model
from tests.checkpoints.test_conversion import Hostile, clip_model, original_cffa, original_clip, person_model
from tests.tiny import IMAGE_SIZE, images, person_rows, tiny_model, tiny_processor

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = person_rows(identities=2)
DOORS = ("open_checkpoint", "search", "run_eval", "init_from", "dry run")
WEIGHT = "visual_projection.weight"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A published model and a training checkpoint with their processor, an image and a config."""
    folder = tmp_path_factory.mktemp("opening")
    model = tiny_model()
    for name, part in (("published", model.base_model), ("training", model)):
        part.save_pretrained(folder / name)
        tiny_processor(ROWS).save_pretrained(folder / name)
    (folder / "images").mkdir()
    (folder / "images" / "0.png").write_bytes(ROWS[0]["image"]["bytes"])
    (folder / "data.yaml").write_text("dataset: cuhk_pedes\n")
    return folder


@pytest.fixture
def folder(world, tmp_path):
    """A copy of the published model that may be damaged."""
    return Path(shutil.copytree(world / "published", tmp_path / "model"))


@pytest.fixture(autouse=True)
def nobody_is_asked(tmp_path, monkeypatch):
    """Standard input says yes to everything; it must not be read."""
    answers = tmp_path / "answers"
    answers.write_text("y\n" * 20)
    with answers.open() as file:
        monkeypatch.setattr("sys.stdin", file)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 0


def enter(door, source, world, tmp_path, monkeypatch, capsys):
    """Bring a checkpoint in by a door; what it says if it refuses."""
    capsys.readouterr()
    if door == "search":
        assert main(["search", str(world / "images"), "red", "--checkpoint", str(source)]) == 2
    elif door == "run_eval":
        monkeypatch.setattr(sys, "argv", ["run_eval.py", str(source), "--config", str(world / "data.yaml")])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(REPOSITORY / "run_eval.py"), run_name="__main__")
        assert end.value.code == 2
    elif door == "convert":
        assert main(["convert", str(source), str(tmp_path / "out"), "--image-size", "64", "32"]) == 2
        assert not (tmp_path / "out").exists()
    else:
        calls = {
            "open_checkpoint": lambda: open_checkpoint(source, device="cpu"),
            "init_from": lambda: starting_model(starting(source), [], 6),
            "dry run": lambda: dry_run_model(source, tmp_path / "out", "owner/model"),
        }
        with pytest.raises(InputError) as error:
            calls[door]()
        assert not (tmp_path / "out").exists()
        return one_sentence(str(error.value))
    told = capsys.readouterr()
    assert not told.out
    (line,) = [line for line in told.err.splitlines() if line.startswith("error: ")]
    return one_sentence(line)


def one_sentence(text):
    assert "\n" not in text
    assert len(text) < 900
    return text


def starting(source, **changes):
    return ModelArguments(init_from=str(source), image_size=list(IMAGE_SIZE), local_dim=32, **changes)


@pytest.fixture
def refusal(world, tmp_path, monkeypatch, capsys):
    """What a door says of a checkpoint that it refuses, within seconds."""

    def refuse(door, source):
        start = time.monotonic()
        said = enter(door, source, world, tmp_path, monkeypatch, capsys)
        assert time.monotonic() - start < 20
        return said

    return refuse


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = {name: value.clone() for name, value in load_file(path).items()}
    save_file(change(weights), path, metadata={"format": "pt"})


def change_json(path, **changes):
    values = json.loads(path.read_text())
    for name, value in changes.items():
        *parts, last = name.split("__")
        inner = values
        for part in parts:
            inner = inner[part]
        inner[last] = value
    path.write_text(json.dumps(values))


# What is whole goes in


@pytest.mark.parametrize("place", ["published", "training"])
def test_whole_checkpoints_open(world, place, tmp_path):
    opened = open_checkpoint(world / place, device="cpu")
    assert isinstance(opened, Checkpoint)
    expected = tiny_model().base_model.state_dict()
    assert expected.keys() == opened.model.state_dict().keys()
    assert all(torch.equal(value, expected[name]) for name, value in opened.model.state_dict().items())
    pixels = images(2)
    with torch.inference_mode():
        assert torch.equal(opened.model.get_image_features(pixels), tiny_model().get_image_features(pixels))
    assert opened.model.config.name_or_path == str(world / place)
    model, _ = starting_model(starting(world / place), [], 6)
    assert torch.equal(model.cffa.visual_projection.weight, expected[WEIGHT])


def test_the_training_model_opens_out_of_a_training_checkpoint_only(world):
    opened = open_checkpoint(world / "training", device="cpu", heads=True)
    assert isinstance(opened.model, CFFAForPreTraining)
    expected = tiny_model().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in opened.model.state_dict().items())
    with pytest.raises(InputError, match=r"missing \('cffa\."):
        open_checkpoint(world / "published", device="cpu", heads=True)


def test_a_published_folder_with_its_code_opens_and_runs_none_of_it(world, tmp_path):
    out = tmp_path / "out"
    dry_run_model(world / "training", out, "owner/model")
    sentinel = tmp_path / "ran"
    for name in ("configuration_cffa.py", "modeling_cffa.py"):
        (out / name).write_text(f"open({str(sentinel)!r}, 'w')\n" + (out / name).read_text())
    assert "auto_map" in json.loads((out / "config.json").read_text())
    assert type(open_checkpoint(out, device="cpu").model) is CFFAModel
    assert not sentinel.exists()


def test_weights_of_several_files_and_of_an_older_kind_open(folder, tmp_path):
    expected = load_file(folder / "model.safetensors")
    tiny_model().base_model.save_pretrained(tmp_path / "split", max_shard_size="100KB")
    tiny_processor(ROWS).save_pretrained(tmp_path / "split")
    assert len(list((tmp_path / "split").glob("model-*.safetensors"))) > 1
    torch.save(expected, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    for source in (tmp_path / "split", folder):
        found = open_checkpoint(source, device="cpu").model.state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_type_of_number_is_kept(tmp_path):
    tiny_model().base_model.half().save_pretrained(tmp_path)
    tiny_processor(ROWS).save_pretrained(tmp_path)
    assert {value.dtype for value in open_checkpoint(tmp_path, device="cpu").model.parameters()} == {torch.float16}
    change_weights(tmp_path, lambda weights: weights | {WEIGHT: torch.full((64, 64), 1e6)})
    with pytest.raises(InputError, match=rf"the weight '{WEIGHT}' is not finite"):  # in float16, as the config says
        open_checkpoint(tmp_path, device="cpu")


# Weights


def without(part):
    return lambda weights: {name: value for name, value in weights.items() if part not in name}


def replaced(make):
    def change(weights):
        (name,) = [name for name in weights if name.endswith(WEIGHT)]
        return weights | {name: make(weights[name])}

    return change


BROKEN = {
    "half": (without("text"), r"\d+ of \d+ missing \('(cffa\.)?text_"),
    "nothing": (lambda weights: {"a": torch.zeros(1)}, r"\d+ of \d+ missing .* and \d+ more\), 1 unknown \('"),
    "refinement": (without("image_refinement"), r"\d+ of \d+ missing \('(cffa\.)?image_refinement"),
    "one more": (lambda weights: weights | {"surprise": torch.zeros(1)}, r"1 unknown \('(cffa\.)?surprise'\)"),
    "other size": (replaced(lambda value: value[:3].clone()), rf"1 of another size .*{WEIGHT}.* 3 x 64 .*64 x 64"),
    "whole numbers": (replaced(lambda value: value.long()), rf"1 of another size or type .*{WEIGHT}"),
    "NaN": (replaced(lambda value: value * float("nan")), rf"the weight '(cffa\.)?{WEIGHT}' is not finite"),
    "infinite": (replaced(lambda value: value / 0), rf"the weight '(cffa\.)?{WEIGHT}' is not finite"),
    "minus infinite": (replaced(lambda value: -(value.abs()) / 0), rf"the weight '(cffa\.)?{WEIGHT}' is not finite"),
}


@pytest.mark.parametrize("place", ["published", "training"])
@pytest.mark.parametrize("damage", BROKEN)
def test_broken_weights_are_refused_at_every_door(world, tmp_path, refusal, place, damage):
    source = Path(shutil.copytree(world / place, tmp_path / "model"))
    change, message = BROKEN[damage]
    change_weights(source, change)
    for door in DOORS:
        said = refusal(door, source)
        assert re.search(message, said), (door, said)
        assert str(source) in said
        assert said.endswith(".")


def test_one_number_among_many_is_found():
    for value in (float("nan"), float("inf"), -float("inf")):
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            weight = torch.zeros(1000, dtype=dtype)
            check_finite({"a": weight, "empty": torch.zeros(0), "count": torch.tensor(3)}, "here")
            weight[77] = value
            with pytest.raises(InputError, match="here: the weight 'b' is not finite"):
                check_finite({"a": torch.ones(2), "b": weight}, "here")


def test_local_features_that_the_config_switches_off_are_not_missed(tmp_path):
    tiny_model(use_flfr=False).base_model.save_pretrained(tmp_path)
    tiny_processor(ROWS).save_pretrained(tmp_path)
    open_checkpoint(tmp_path, device="cpu")
    model, _ = starting_model(starting(tmp_path), [], 6)
    assert model.cffa.image_refinement is not None  # fresh, as the arguments ask for it
    change_json(tmp_path / "config.json", use_flfr=True)
    with pytest.raises(InputError, match="missing"):
        starting_model(starting(tmp_path), [], 6)


def test_heads_that_are_switched_off_are_dropped_at_the_start_of_a_run_only(world, tmp_path):
    source = Path(shutil.copytree(world / "training", tmp_path / "model"))
    change_json(source / "config.json", use_mlm=False)
    starting_model(starting(source), [], 6)
    open_checkpoint(source, device="cpu")
    with pytest.raises(InputError, match=r"unknown \('cross_modal"):
        open_checkpoint(source, device="cpu", heads=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["cffa.pth", "clip.pt", "clip"])
def test_weights_of_others_that_are_not_finite_are_refused(tmp_path, refusal, kind, value):
    tokenizer = train_tokenizer(["a red coat"] * 3, 520)
    tokenizer.save_pretrained(tmp_path / "words")
    source = tmp_path / kind
    if kind == "clip":
        clip_model(vocabulary=len(tokenizer)).save_pretrained(source)
        tokenizer.save_pretrained(source)
        change_weights(source, replaced(lambda weight: weight * value))
    else:
        text = {"vocab_size": len(tokenizer)}
        weights = original_cffa(person_model(text=text)) if "cffa" in kind else original_clip(clip_model().state_dict())
        name = next(name for name in weights if name.endswith("visual.proj"))
        # The mask that CLIP's own files hold is infinite by right.
        masked = weights | ({"attn_mask": torch.full((77, 77), -float("inf"))} if kind == "clip.pt" else {})
        torch.save(masked, source)
        convert(str(source), image_size=IMAGE_SIZE)
        torch.save(weights | {name: weights[name] * value}, source)
    assert "is not finite" in refusal("convert", source)
    with pytest.raises(InputError, match=r"init_from: .*is not finite"):
        starting_model(starting(source, tokenizer=str(tmp_path / "words")), [], 6)


def test_unknown_weights_within_a_clip_are_refused_and_heads_on_it_dropped(tmp_path, refusal):
    clip_model().save_pretrained(tmp_path / "clip")
    change_weights(
        tmp_path / "clip",
        lambda weights: (
            weights | {"classifier.weight": torch.zeros(3, 64), "text_model.embeddings.position_ids": torch.arange(77)}
        ),
    )
    conversion = convert(str(tmp_path / "clip"), image_size=IMAGE_SIZE)
    assert conversion.dropped["classifier.weight"] == "a head that CFFA does not have"
    assert conversion.dropped["text_model.embeddings.position_ids"] == "not needed to embed"
    change_weights(tmp_path / "clip", lambda weights: weights | {"vision_model.surprise": torch.zeros(3)})
    assert "1 unknown ('vision_model.surprise')" in refusal("convert", tmp_path / "clip")


# Files


@pytest.mark.parametrize("door", DOORS)
def test_truncated_weights(folder, refusal, door):
    path = folder / "model.safetensors"
    for size in (0, 5, 1000, path.stat().st_size - 1):
        os.truncate(path, size)
        assert re.search("truncated|empty", refusal(door, folder))


@pytest.mark.parametrize("door", ["open_checkpoint", "search", "run_eval", "init_from"])
def test_a_pickle_that_wants_more_is_refused_and_not_run(folder, tmp_path, refusal, door):
    sentinel = tmp_path / "ran"
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**weights, "more": Hostile(sentinel)}, folder / "pytorch_model.bin")
    assert "holds more than weights and is refused" in refusal(door, folder)
    assert not sentinel.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert sentinel.exists()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "no JSON file with names"),
        ("{}", "names no files"),
        ('{"weight_map": {"a": 3}}', "names no files"),
        ('{"weight_map": {"a": "../other/model.safetensors"}}', "no file of weights beside it"),
        ('{"weight_map": {"a": "/etc/hostname"}}', "no file of weights beside it"),
        ('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', "model-00001-of-00002.safetensors is missing"),
    ],
)
def test_a_damaged_index(folder, refusal, index, message):
    (folder / "model.safetensors").rename(folder / "elsewhere.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    for door in ("open_checkpoint", "init_from"):
        assert message in refusal(door, folder)


def test_no_weights_at_all(folder, refusal):
    (folder / "model.safetensors").unlink()
    for door in DOORS:
        assert "there are no weights" in refusal(door, folder)


def test_what_claims_to_be_larger_than_it_is(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**9)}, tmp_path / "wide.pth")
    with pytest.raises(InputError, match="'a' claims to be larger"):
        read_state_dict(tmp_path / "wide.pth")
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(InputError, match="would unfold to 4,0"):
        read_state_dict(tmp_path / "packed.pth")
    assert read_state_dict(tmp_path / "plain.pth")["a"].shape == (10**6,)


# The config

SILLY = [
    ({"stride": -1}, "makes no model .*stride"),
    ({"stride": 10**12}, "'stride' is beyond"),
    ({"local_dim": "x"}, "makes no model .*local_dim"),
    ({"local_dim": -4}, "makes no model"),
    ({"dtype": "x"}, "'dtype' is none of float32"),
    ({"dtype": {"": "x"}}, "'dtype' is none of float32"),
    ({"vision_config__dtype": "x"}, "vision_config 'dtype'"),
    ({"text_config__num_hidden_layers": 10**9}, "text_config 'num_hidden_layers' is beyond 1,000"),
    ({"text_config__num_hidden_layers": 10**400}, "is beyond 1,000"),
    ({"text_config__num_hidden_layers": 900}, "missing"),
    ({"cross_modal_layers": 10**9}, "'cross_modal_layers' is beyond 1,000"),
    ({"vision_config__hidden_size": 10**15}, "vision_config 'hidden_size' is beyond"),
    ({"vision_config__hidden_size": 10**6}, "of another size"),
    ({"vision_config__hidden_size": -64}, "makes no model"),
    ({"vision_config__image_size": [10**12, 10**12]}, "'image_size' is beyond"),
    ({"vision_config__image_size": [64, 48]}, "of another size .*position_embedding.* 13 x 64"),
    ({"vision_config__num_channels": 1}, "'num_channels' is not 3"),
    ({"vision_config__layer_norm_eps": float("nan")}, "'layer_norm_eps' is not between"),
    ({"vision_config__num_attention_heads": 0}, "makes no model"),
    ({"vision_config__hidden_act": "x"}, "makes no model"),
    ({"text_config": "x"}, "makes no model"),
    ({"select_ratio": float("nan")}, "is beyond"),
    ({"attn_implementation": "owner/kernel"}, "'attn_implementation' is none of eager, sdpa"),
    ({"_attn_implementation": "owner/kernel"}, "'_attn_implementation' is none of"),
    ({"text_config___attn_implementation_internal": "owner/kernel"}, "text_config '_attn_implementation_internal'"),
    ({"attn_implementation": {"text_config": "owner/kernel"}}, "'attn_implementation' is none of"),
    ({"quantization_config": {"quant_method": "gptq"}}, "it sets 'quantization_config'"),
    ({"model_type": "bert"}, "holds a bert model"),
    ({"model_type": "evil\x1b[2J"}, r"holds a evil\?\?2J model"),
    ({"model_type": None}, "holds no model"),
    ({"model_type": ["cffa"]}, "holds no model"),
]


@pytest.mark.parametrize(("changes", "message"), SILLY)
def test_a_silly_config_is_refused_at_once(folder, refusal, changes, message):
    change_json(folder / "config.json", **changes)
    for door in ("open_checkpoint", "init_from"):
        said = refusal(door, folder)
        assert re.search(message, said), said
        assert str(folder) in said
        assert said.endswith(".")


@pytest.mark.parametrize("door", DOORS)
def test_every_door_reads_the_config_first(folder, refusal, door):
    change_json(folder / "config.json", model_type="llama", auto_map={"AutoConfig": "evil.Config"})
    assert "holds a llama model" in refusal(door, folder)
    change_json(folder / "config.json", model_type="cffa", attn_implementation="owner/kernel")
    assert "could load code" in refusal(door, folder)
    (folder / "config.json").write_text("[" * 100_000)
    assert "cannot be read as JSON" in refusal(door, folder)


def test_a_general_clip_is_no_cffa_model_and_is_checked_alike(tmp_path, refusal):
    clip_model().save_pretrained(tmp_path / "clip")
    for door in ("open_checkpoint", "search", "run_eval", "dry run"):
        assert "holds a clip model" in refusal(door, tmp_path / "clip")
    for part in ("text_config", "vision_config"):
        config = (tmp_path / "clip" / "config.json").read_text()
        change_json(tmp_path / "clip" / "config.json", **{f"{part}__num_hidden_layers": 10**9})
        assert "beyond 1,000" in refusal("convert", tmp_path / "clip")
        (tmp_path / "clip" / "config.json").write_text(config)
    change_json(tmp_path / "clip" / "config.json", text_config_dict={"num_hidden_layers": 10**9})
    assert "beyond 1,000" in refusal("convert", tmp_path / "clip")


def test_what_older_versions_wrote_into_a_config_is_read(tmp_path):
    clip_model().save_pretrained(tmp_path / "clip")
    older = {"_attn_implementation_autoset": True, "torch_dtype": None, "quantization_config": None, "max_length": 20}
    config = json.loads((tmp_path / "clip" / "config.json").read_text())
    dictionaries = {f"{part}_dict": config[part] for part in ("text_config", "vision_config")}
    parts = {f"text_config__{name}": value for name, value in {**older, "bad_words_ids": None}.items()}
    change_json(tmp_path / "clip" / "config.json", **older, **dictionaries, **parts)
    assert convert(str(tmp_path / "clip"), image_size=IMAGE_SIZE).fresh == {}


# Tokenizer and processor


def processor_of(vocabulary=600, image_size=IMAGE_SIZE, context=77):
    words = [" ".join(f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnpr")]
    tokenizer = train_tokenizer(words * 2, vocabulary)
    assert len(tokenizer) == vocabulary
    return build_processor(tokenizer, image_size, context)


OTHERS = [
    ({"context": 24}, "captions of 24 tokens, but its model reads 77"),
    ({"context": 200}, "captions of 200 tokens, but its model reads 77"),
    ({"image_size": (32, 64)}, "images of 32 x 64 pixels, but its model reads 64 x 32"),
    ({"vocabulary": 560}, "a tokenizer of 560 ids, but the weights have 600"),
]


@pytest.mark.parametrize(("sizes", "message"), OTHERS)
def test_the_processor_of_another_model(folder, refusal, sizes, message):
    processor_of().save_pretrained(folder)
    open_checkpoint(folder, device="cpu")
    processor_of(**sizes).save_pretrained(folder)
    for door in ("open_checkpoint", "search", "run_eval", "dry run"):
        assert message in refusal(door, folder)


@pytest.mark.parametrize("door", DOORS)
def test_a_tokenizer_of_600_ids_on_a_model_of_800(tmp_path, refusal, door):
    tiny_model(text={"vocab_size": 800}).base_model.save_pretrained(tmp_path / "model")
    processor_of().save_pretrained(tmp_path / "model")
    assert "a tokenizer of 600 ids, but the weights have 800" in refusal(door, tmp_path / "model")


@pytest.mark.parametrize("door", DOORS)
def test_special_tokens_in_other_places(folder, refusal, door):
    path = folder / "tokenizer_config.json"
    change_json(path, bos_token="<|endoftext|>", eos_token="<|startoftext|>", pad_token="<|startoftext|>")
    assert re.search("have the ids 597, 599, 598 instead of 597, 598, 599", refusal(door, folder))


def test_an_image_processor_that_crops(folder, refusal):
    change_json(folder / "processor_config.json", image_processor__do_center_crop=True)
    assert "images of 224 x 224 pixels" in refusal("open_checkpoint", folder)
    change_json(folder / "processor_config.json", image_processor__do_center_crop=False)
    change_json(folder / "processor_config.json", image_processor__size={"shortest_edge": 64})
    assert "shortest_edge" in refusal("open_checkpoint", folder)


@pytest.mark.parametrize("door", DOORS)
def test_a_folder_without_a_tokenizer_says_so(folder, refusal, door):
    (folder / "tokenizer.json").unlink()
    assert re.search(rf"{folder} has no tokenizer", refusal(door, folder))
    (folder / "tokenizer_config.json").unlink()
    (folder / "processor_config.json").unlink()
    assert re.search(rf"{folder} has no (tokenizer|processor)", refusal(door, folder))


EVIL = "import pathlib\npathlib.Path(r'{}').touch()\nclass Evil:\n    from_pretrained = classmethod(lambda *_, **__: None)\n"


CODE = [
    ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": None}),
    ("tokenizer_config.json", {"tokenizer_class": "BertTokenizer"}),
    ("processor_config.json", {"auto_map": {"AutoProcessor": "evil.Evil"}}),
    ("processor_config.json", {"image_processor__auto_map": {"AutoImageProcessor": "evil.Evil"}}),
    ("processor_config.json", {"image_processor__image_processor_type": "Evil"}),
    ("processor_config.json", {"processor_class": "Evil"}),
    ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "evil.Evil"}}),
]


# A run starts from the tokenizer alone.
@pytest.mark.parametrize(
    ("door", "file", "changes"),
    [(door, *case) for door in DOORS for case in CODE if door != "init_from" or "tokenizer" in case[0]],
)
def test_code_that_a_processor_names_is_refused_and_not_run(folder, tmp_path, refusal, door, file, changes):
    sentinel = tmp_path / "ran"
    (folder / "evil.py").write_text(EVIL.format(sentinel))
    if not (folder / file).exists():
        (folder / file).write_text("{}")
    change_json(folder / file, **changes)
    said = refusal(door, folder)
    assert re.search("code of a checkpoint is never run|asks for the class", said), said
    assert not sentinel.exists()
    runpy.run_path(str(folder / "evil.py"))
    assert sentinel.exists()


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"added_tokens": 3}', "[" * 100_000, '{"a": %s}' % ("9" * 5000)])
def test_damaged_files_of_a_processor(folder, refusal, file, content):
    (folder / file).write_text(content)
    if file == "tokenizer_config.json" and content in ("{}", '{"added_tokens": 3}'):
        assert re.search("mask, start and end|no place for a mask|captions of", refusal("open_checkpoint", folder))
        return
    said = refusal("open_checkpoint", folder)
    assert str(folder) in said
    assert said.endswith(".")


def test_the_published_model_still_opens_with_the_library_alone(world, tmp_path):
    dry_run_model(world / "published", tmp_path / "out", "owner/model")
    assert type(AutoModel.from_pretrained(tmp_path / "out")) is CFFAModel
    assert len(CLIPProcessor.from_pretrained(tmp_path / "out").tokenizer) == 600


def test_no_call_of_the_library_may_ask_for_code():
    calls = {}
    for path in sorted((REPOSITORY / "cffa_hf").rglob("*.py")):
        for match in re.finditer(r"(?<!`)\b\w+\.from_pretrained\(", path.read_text()):
            end = path.read_text().index(")", match.end())
            calls[f"{path.name}: {match.group()}"] = path.read_text()[match.end() : end]
    calls = {name: words for name, words in calls.items() if "name_or_path:" not in words and "PeftModel" not in name}
    assert len(calls) >= 5
    assert not [name for name, words in calls.items() if "trust_remote_code=False" not in words]
