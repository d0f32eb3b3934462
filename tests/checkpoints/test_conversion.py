import json
import multiprocessing
import os
import pickle
import random
import shutil
import time
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoProcessor, CLIPConfig, CLIPModel

from cffa_hf.arguments.model import ModelArguments
from cffa_hf.checkpoints.conversion import convert
from cffa_hf.checkpoints.files import read_state_dict
from cffa_hf.checkpoints.originals import fit_positions, read_original
from cffa_hf.cli import main
from cffa_hf.configuration_cffa import IMAGE_SIZE as PUBLISHED_SIZE
from cffa_hf.errors import InputError
from cffa_hf.inputs.processor import train_tokenizer
from cffa_hf.modeling_cffa import CFFAForPreTraining, CFFAModel, resize_positions
from cffa_hf.training.start import starting_model
from tests.tiny import IMAGE_SIZE, captions, images, random_words, tiny_config

SQUARE = (64, 64)
CAPTIONS = captions(random_words(5), random_words(9, seed=1))
TEXTS = ["a woman in a red coat", "a man with a black rucksack and white shoes"]


def clip_model(vocabulary=600, side=64, patch=16, width=64, text_width=64, layers=2, projection=64):
    sizes = {"num_hidden_layers": layers, "intermediate_size": 4 * width}
    text = {**sizes, "hidden_size": text_width, "num_attention_heads": max(1, text_width // 64)}
    text |= {"vocab_size": vocabulary, "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
    vision = {
        **sizes,
        "hidden_size": width,
        "num_attention_heads": width // 64,
        "patch_size": patch,
        "image_size": side,
    }
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection)).eval()
    with torch.no_grad():  # fresh biases are 0 and norms 1, which would hide a mix-up
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def original_blocks(weights, ours, theirs):
    """Give the transformer blocks of a Hugging Face model their original names."""
    renamed = {}
    depth = len({name[len(ours) :].split(".")[0] for name in weights if name.startswith(ours)})
    for index in range(depth):
        for kind in ("weight", "bias"):
            block, there = f"{ours}{index}.", f"{theirs}{index}."
            fused = [weights[f"{block}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            renamed[f"{there}attn.in_proj_{kind}"] = torch.cat(fused)
            renamed[f"{there}attn.out_proj.{kind}"] = weights[f"{block}self_attn.out_proj.{kind}"]
            renamed[f"{there}ln_1.{kind}"] = weights[f"{block}layer_norm1.{kind}"]
            renamed[f"{there}ln_2.{kind}"] = weights[f"{block}layer_norm2.{kind}"]
            renamed[f"{there}mlp.c_fc.{kind}"] = weights[f"{block}mlp.fc1.{kind}"]
            renamed[f"{there}mlp.c_proj.{kind}"] = weights[f"{block}mlp.fc2.{kind}"]
    return renamed


def original_clip(weights, vision="", text=""):
    """Give the weights of CLIPModel the names and shapes of OpenAI's release."""
    names = {
        f"{vision}visual.class_embedding": "vision_model.embeddings.class_embedding",
        f"{vision}visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        f"{vision}visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        f"{text}token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        f"{text}positional_embedding": "text_model.embeddings.position_embedding.weight",
    }
    for kind in ("weight", "bias"):
        names[f"{vision}visual.ln_pre.{kind}"] = f"vision_model.pre_layrnorm.{kind}"
        names[f"{vision}visual.ln_post.{kind}"] = f"vision_model.post_layernorm.{kind}"
        names[f"{text}ln_final.{kind}"] = f"text_model.final_layer_norm.{kind}"
    renamed = {theirs: weights[ours] for theirs, ours in names.items()}
    renamed[f"{vision}visual.proj"] = weights["visual_projection.weight"].T
    renamed[f"{text}text_projection"] = weights["text_projection.weight"].T
    renamed |= original_blocks(weights, "vision_model.encoder.layers.", f"{vision}visual.transformer.resblocks.")
    renamed |= original_blocks(weights, "text_model.encoder.layers.", f"{text}transformer.resblocks.")
    if "logit_scale" in weights:
        renamed["logit_scale"] = weights["logit_scale"]
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in renamed.items()}


def original_cffa(model):
    """Give the weights of CFFAForPreTraining the names of the published implementation."""
    state = model.state_dict()
    trunk = {name.removeprefix("cffa."): value for name, value in state.items() if name.startswith("cffa.")}
    renamed = original_clip(trunk, "base_model.", "base_model.")
    modules = {"identity_classifier": "classifier"}
    for ours, theirs in (("image", "visul_emb_layer"), ("text", "texual_emb_layer")):
        modules[f"cffa.{ours}_refinement.linear"] = f"{theirs}.{'fc' if ours == 'image' else 'linear'}"
        modules[f"cffa.{ours}_refinement.mlp_in"] = f"{theirs}.mlp.layers.0"
        modules[f"cffa.{ours}_refinement.mlp_out"] = f"{theirs}.mlp.layers.1"
        modules[f"cffa.{ours}_refinement.batch_norm"] = f"{theirs}.mlp.bns.0"
    modules |= {"cross_modal.text_norm": "ln_pre_t", "cross_modal.image_norm": "ln_pre_i"}
    modules |= {"cross_modal.post_norm": "ln_post", "cross_modal.out_proj": "cross_attn.out_proj"}
    modules |= {
        f"mlm_head.{ours}": f"mlm_head.{old}" for ours, old in (("dense", "dense"), ("norm", "ln"), ("decoder", "fc"))
    }
    for name, value in state.items():
        module, _, kind = name.rpartition(".")
        if module in modules:
            renamed[f"{modules[module]}.{kind}"] = value
    if model.config.use_mlm:
        renamed |= original_blocks(state, "cross_modal.layers.", "cross_modal_transformer.resblocks.")
        for kind in ("weight", "bias"):
            fused = [state[f"cross_modal.{part}_proj.{kind}"] for part in "qkv"]
            renamed[f"cross_attn.in_proj_{kind}"] = torch.cat(fused)
    if model.config.use_flfr:
        for name in ("visul_emb_layer.linear.weight", "texual_emb_layer.mlp.bns.1.running_mean"):
            renamed[name] = torch.zeros(3)
    return {name: value.clone() for name, value in renamed.items()}


def person_model(text=None, vision=None, **fields):
    """A model with heads of 64 channels, as all of them have there, and no weight as it was initialised."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 1}
    config = tiny_config(text={**heads, **(text or {})}, vision={**heads, **(vision or {})}, **fields)
    model = CFFAForPreTraining(config).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value += (
                    (0.05 * torch.randn_like(value)).abs() if name.endswith("var") else 0.05 * torch.randn_like(value)
                )
    return model


@torch.no_grad()
def clip_embeddings(model, side=64):
    output = model(input_ids=CAPTIONS, pixel_values=images(2, (side, side)), attention_mask=None)
    return output.image_embeds, output.text_embeds


@torch.no_grad()
def embeddings(model, size=SQUARE):
    return model.get_image_features(images(2, size)), model.get_text_features(CAPTIONS)


def same(found, wanted, atol=1e-5):
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


def save(content, path):
    torch.save(content, path)
    return str(path)


# CLIP: one model, four layouts


def test_clip_in_hugging_face_format(tmp_path):
    clip = clip_model()
    clip.save_pretrained(tmp_path)
    conversion = convert(str(tmp_path), image_size=SQUARE)
    same(embeddings(conversion.model), clip_embeddings(clip))
    assert conversion.model.config.embedding_dim == 64
    assert (conversion.fresh, list(conversion.dropped)) == ({}, ["logit_scale"])


@pytest.mark.parametrize("text_prefix", ["", "text."])
@pytest.mark.parametrize(
    "wrap", [lambda weights: weights, lambda weights: {"epoch": 3, "name": "x", "state_dict": weights}]
)
def test_openai_and_open_clip_state_dicts(tmp_path, text_prefix, wrap):
    clip = clip_model()
    weights = original_clip(clip.state_dict(), text=text_prefix)
    weights[f"{text_prefix}attn_mask"] = torch.zeros(77, 77)
    weights["input_resolution"] = torch.tensor(64)
    conversion = convert(save(wrap(weights), tmp_path / "clip.pt"), image_size=SQUARE)
    same(embeddings(conversion.model), clip_embeddings(clip))
    assert set(conversion.dropped) == {"logit_scale", "input_resolution", f"{text_prefix}attn_mask"}
    assert len(set(conversion.mapped.values())) == len(weights) - 3


def test_a_safetensors_file(tmp_path):
    clip = clip_model()
    save_file(original_clip(clip.state_dict()), tmp_path / "open_clip_model.safetensors")
    conversion = convert(str(tmp_path / "open_clip_model.safetensors"), image_size=SQUARE)
    same(embeddings(conversion.model), clip_embeddings(clip))


class Tree(nn.Module):
    """A module whose parameters have given dotted names."""

    def __init__(self, weights):
        super().__init__()
        children = {}
        for name, value in weights.items():
            first, _, rest = name.partition(".")
            if rest:
                children.setdefault(first, {})[rest] = value
            else:
                self.register_parameter(name, nn.Parameter(value))
        for name, inner in children.items():
            self.add_module(name, Tree(inner))

    def forward(self, x):
        return x + 1


@pytest.fixture(scope="module")
def script_archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("jit") / "ViT.pt"
    clip = clip_model()
    tree = Tree({name: value.half() for name, value in original_clip(clip.state_dict()).items()})
    torch.jit.trace(tree, torch.ones(1)).save(str(path))
    return clip, path


def test_openai_jit_archive(script_archive):
    clip, path = script_archive
    read, loaded = read_state_dict(path), torch.jit.load(path).state_dict()
    assert set(read) == set(loaded)
    assert all(torch.equal(read[name], loaded[name]) and read[name].dtype == torch.float16 for name in read)
    same(embeddings(convert(str(path), image_size=SQUARE).model), clip_embeddings(clip.half().float()))


def test_square_positions_become_a_rectangle(tmp_path):
    clip = clip_model()
    clip.save_pretrained(tmp_path / "clip")
    weights = save(original_clip(clip.state_dict()), tmp_path / "clip.pt")
    wanted = CFFAModel.from_clip_pretrained(str(tmp_path / "clip"), image_size=IMAGE_SIZE, use_flfr=False).eval()
    for source in (weights, str(tmp_path / "clip")):
        conversion = convert(source, image_size=IMAGE_SIZE)
        same(embeddings(conversion.model, IMAGE_SIZE), embeddings(wanted, IMAGE_SIZE))
        assert conversion.resized == ["image positions from 4 x 4 to 4 x 2"]
    assert convert(weights).model.config.image_size == (384, 128)
    assert convert(weights, stride=8).model.config.grid_size == (47, 15)


PUBLISHED_CLIPS = {
    "B/32": ({"width": 768, "patch": 32, "text_width": 512, "projection": 512, "side": 224}, (12, 8, 7, 4)),
    "B/16": ({"width": 768, "patch": 16, "text_width": 512, "projection": 512, "side": 224}, (12, 8, 14, 8)),
    "L/14": ({"width": 1024, "patch": 14, "text_width": 768, "projection": 768, "side": 224}, (16, 12, 16, 9)),
    "L/14@336": ({"width": 1024, "patch": 14, "text_width": 768, "projection": 768, "side": 336}, (16, 12, 24, 9)),
}


@pytest.mark.parametrize("name", PUBLISHED_CLIPS)
def test_sizes_of_the_published_clips(name):
    sizes, (heads, text_heads, side, columns) = PUBLISHED_CLIPS[name]
    with torch.device("meta"):
        clip = clip_model(vocabulary=49408, layers=1, **sizes)
    source = read_original(original_clip(clip.state_dict()))
    config = source.config
    assert config.vision_config.num_attention_heads == heads
    assert config.text_config.num_attention_heads == text_heads
    assert config.grid_size == (side, side)
    assert config.image_size == (sizes["side"], sizes["side"])
    assert config.projection_dim == sizes["projection"]
    config.vision_config.image_size = [384, 128]
    assert config.grid_size[1] == columns
    ours = CLIPConfig.from_dict(clip.config.to_dict())
    for part in ("text_config", "vision_config"):
        for field in ("hidden_size", "num_hidden_layers", "intermediate_size", "hidden_act"):
            if field != "intermediate_size" or part == "vision_config":
                assert getattr(getattr(config, part), field) == getattr(getattr(ours, part), field)


def test_activation_and_heads_of_open_clips_own_models(tmp_path):
    path = save(original_clip(clip_model().state_dict()), tmp_path / "laion.pt")
    config = convert(path, activation="gelu").model.config
    assert config.vision_config.hidden_act == config.text_config.hidden_act == "gelu"
    with torch.device("meta"):
        huge = clip_model(width=1280, patch=14, text_width=1024, layers=1, side=224)
    assert read_original(original_clip(huge.state_dict())).config.vision_config.num_attention_heads == 16


# CFFA, IRRA, RDE

KINDS = {
    "CFFA": {},
    "IRRA": {"use_flfr": False},
    "RDE": {"use_mlm": False, "use_identity": False},
    "CLIP in IRRA's layout": {"use_flfr": False, "use_mlm": False, "use_identity": False},
}


@pytest.mark.parametrize("wrap", ["plain", "module", "half", "optimizer"])
@pytest.mark.parametrize("kind", KINDS)
def test_person_retrieval_checkpoints(tmp_path, kind, wrap):
    model = person_model(cross_modal_layers=2, **KINDS[kind])
    weights = original_cffa(model)
    if wrap == "module":
        weights = {f"module.{name}": value for name, value in weights.items()}
    if wrap == "half":
        weights = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
        model = model.half().float()
    content = {"model": weights, "epoch": 7}
    if wrap == "optimizer":
        optimizer = torch.optim.Adam(model.parameters())
        content |= {"optimizer": optimizer.state_dict(), "scheduler": {"milestones": (20, 50), "last_epoch": 7}}
    conversion = convert(save(content, tmp_path / "best.pth"), image_size=IMAGE_SIZE)
    config = conversion.model.config
    assert conversion.source.kind == kind
    for field in ("use_flfr", "use_mlm", "use_identity"):
        assert getattr(config, field) == getattr(model.config, field), field
    assert config.embedding_dim == (96 if config.use_flfr else 64)
    assert config.cross_modal_layers == (2 if config.use_mlm else 4)
    assert config.num_identities == (6 if config.use_identity else 1)
    assert conversion.fresh == {}
    assert bool(conversion.dropped) == config.use_flfr
    same(embeddings(conversion.model, IMAGE_SIZE), embeddings(model, IMAGE_SIZE))
    state = model.state_dict()
    heads = [name for name in state if name.startswith(("identity", "cross_modal", "mlm"))]
    same([conversion.model.state_dict()[name] for name in heads], [state[name] for name in heads])


def test_the_golden_checkpoint_through_the_command(golden_folder, tmp_path, capsys):
    words = ["convert", str(golden_folder / "cffa_tiny.pth"), str(tmp_path / "out"), "--verbose"]
    assert main(words) == 2
    assert "tell the size that it was trained at" in capsys.readouterr().err
    assert main([*words, "--image-size", "192", "64"]) == 0
    printed = capsys.readouterr().out
    for part in ("CFFA, 83 weights", "model only", "300", "select ratio 0.3", "newly initialised: nothing", "192 x 64"):
        assert part in printed
    assert "visul_emb_layer.linear.weight: never used" in printed
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    assert type(model) is CFFAModel
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    tensors = load_file(golden_folder / "cffa_tiny.safetensors")
    for batch in ("full", "short"):
        with torch.no_grad():
            output = model(tensors[f"{batch}.input.caption_ids"], tensors[f"{batch}.input.images"].float())
        for name in ("image_global", "image_local", "text_global", "text_local", "similarity"):
            torch.testing.assert_close(output[name], tensors[f"{batch}.eval.{name}"], atol=1e-4, rtol=0)
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["source"] == "cffa_tiny.pth"
    assert record["dropped"]["classifier.weight"].startswith("training head")
    assert len(record["mapped"]) == len(model.state_dict())
    assert record["fresh"] == {}


def test_stride_is_read_from_the_position_table():
    assert fit_positions(310, 16, [(384, 128)], None) == ((384, 128), 12)
    assert fit_positions(192, 16, [(384, 128)], None) == ((384, 128), 16)
    assert fit_positions(196, 16, [(384, 128), (224, 224)], None) == ((224, 224), 16)
    with pytest.raises(InputError, match=r"196 \+ 1 rows.*384 x 128.*a square of 224 x 224 would fit"):
        fit_positions(196, 16, [(384, 128)], None)
    with pytest.raises(InputError, match="stride of 12"):
        fit_positions(192, 16, [(384, 128)], 12)
    with pytest.raises(InputError, match=r"strides of 12, 11, 10 pixels.*stride"):
        fit_positions(10, 16, [(64, 32)], None)


def test_overlapping_patches(tmp_path):
    model = person_model(stride=12, select_ratio=0.5)
    path = save(original_cffa(model), tmp_path / "best.pth")
    config = convert(path, image_size=IMAGE_SIZE, stride=12, select_ratio=0.5).model.config
    assert (config.stride, config.grid_size, config.select_ratio) == (12, (5, 2), 0.5)
    with pytest.raises(InputError, match=r"best\.pth.*10 \+ 1 rows.*64 x 32.*stride of 16"):
        convert(path, image_size=IMAGE_SIZE, stride=16)
    with pytest.raises(InputError, match=r"384 x 128.*image_size"):
        convert(path)
    with pytest.raises(InputError, match="select_ratio"):
        convert(path, image_size=IMAGE_SIZE, stride=12, select_ratio=1.5)
    with pytest.raises(InputError, match="stride must be at least 1"):
        convert(path, image_size=IMAGE_SIZE, stride=0)


# Processors


def test_the_real_vocabulary_gives_a_processor(golden_folder, tmp_path, capsys):
    path = save(original_clip(clip_model(vocabulary=49408, layers=1).state_dict()), tmp_path / "clip.pt")
    merges = str(golden_folder / "bpe_simple_vocab_16e6.txt.gz")
    size = ["--image-size", "64", "32"]
    assert main(["convert", path, str(tmp_path / "bare"), *size]) == 0
    assert "no processor (the file has no tokenizer; --vocabulary" in capsys.readouterr().out
    assert main(["convert", path, str(tmp_path / "out"), "--vocabulary", merges, *size]) == 0
    assert "model and processor" in capsys.readouterr().out
    model, processor = AutoModel.from_pretrained(tmp_path / "out"), AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor.tokenizer.mask_token_id == model.config.mask_token_id == 49405
    words = processor.tokenizer(["dr jekyll"])["input_ids"][0]
    assert (words[0], words[-1]) == (49406, 49407)
    assert 49405 not in words
    assert processor.tokenizer.decode(words, skip_special_tokens=True).strip() == "dr jekyll"


def test_a_clip_folder_with_tokenizer_gives_a_processor(tmp_path, capsys):
    tokenizer = train_tokenizer(TEXTS, 600)
    clip_model(vocabulary=len(tokenizer)).save_pretrained(tmp_path / "clip")
    assert main(["convert", str(tmp_path / "clip"), str(tmp_path / "bare"), "--image-size", "64", "32"]) == 0
    assert "the model only, no processor" in capsys.readouterr().out
    tokenizer.save_pretrained(tmp_path / "clip")
    assert main(["convert", str(tmp_path / "clip"), str(tmp_path / "out"), "--image-size", "64", "32"]) == 0
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert len(processor.tokenizer) == len(tokenizer)
    assert processor.image_processor.size["height"] == 64


def test_a_tokenizer_of_another_size_is_refused(golden_folder, tmp_path, capsys):
    path = save(original_clip(clip_model().state_dict()), tmp_path / "clip.pt")
    merges = str(golden_folder / "bpe_simple_vocab_16e6.txt.gz")
    assert main(["convert", path, str(tmp_path / "out"), "--vocabulary", merges]) == 2
    assert "49408 ids, but the weights have 600" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# What is refused, and how


class Hostile:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.mkdir, (str(self.sentinel),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_wants_more_is_refused_and_not_run(tmp_path, zipped):
    sentinel, path = tmp_path / "ran", tmp_path / "evil.pth"
    content = {"model": original_cffa(person_model()), "more": Hostile(sentinel)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"evil\.pth holds more than weights and is refused.*mkdir"):
        convert(str(path))
    path.write_bytes(pickle.dumps(Hostile(sentinel)))
    with pytest.raises(InputError, match=r"evil\.pth"):
        convert(str(path))
    assert not sentinel.exists()
    pickle.loads(path.read_bytes())
    assert sentinel.exists()


def test_a_jit_archive_that_wants_more_is_refused_and_not_run(tmp_path, script_archive):
    sentinel, path = tmp_path / "ran", tmp_path / "evil.pt"
    with zipfile.ZipFile(script_archive[1]) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            evil = name.endswith("/data.pkl")
            target.writestr(name, pickle.dumps(Hostile(sentinel), protocol=2) if evil else source.read(name))
    with pytest.raises(InputError, match=r"evil\.pt holds more than weights and is refused.*mkdir"):
        read_state_dict(path)
    assert not sentinel.exists()


@pytest.mark.parametrize("form", ["zip", "legacy", "jit", "safetensors"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.999])
def test_a_truncated_file_is_named_as_such(tmp_path, script_archive, form, part):
    path = tmp_path / ("cut.safetensors" if form == "safetensors" else "cut.pth")
    weights = original_clip(script_archive[0].state_dict())
    if form == "safetensors":
        save_file(weights, path)
    elif form == "jit":
        path.write_bytes(script_archive[1].read_bytes())
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(InputError, match=r"cut\.\w+ cannot be read, it is probably truncated: download it again"):
        convert(str(path))


def test_what_is_no_checkpoint(tmp_path):
    path = tmp_path / "weights.pth"
    for content, message in (
        (b"", "is empty"),
        (b"hello, hello", "is no checkpoint"),
        (b"<html></html>", "is no checkpoint"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"weights\.pth {message}"):
            convert(str(path))
    for content in ([1, 2], {"model": {"epoch": 3}}, torch.zeros(3)):
        with pytest.raises(InputError, match="holds no weights"):
            convert(save(content, path))
    with pytest.raises(InputError, match=r"weights\.pth: .*no checkpoint of a known kind.*'layer1\.weight'"):
        convert(save({"layer1.weight": torch.zeros(3)}, path))
    with pytest.raises(InputError, match=r"absent\.pth does not exist"):
        convert(str(tmp_path / "absent.pth"))
    with pytest.raises(InputError, match=r"has no config\.json"):
        convert(str(tmp_path))
    person_model().save_pretrained(tmp_path / "ours")
    with pytest.raises(InputError, match="a model of this package already"):
        convert(str(tmp_path / "ours"))


def test_a_damaged_clip_folder(tmp_path):
    clip_model().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = {name: value.clone() for name, value in load_file(path).items()}
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="truncated"):
        convert(str(tmp_path))
    name = "visual_projection.weight"
    save_file({**whole, name: torch.zeros(3, 3)}, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"config\.json: 1 of another size or type \('{name}', the first 3 x 3"):
        convert(str(tmp_path))
    save_file({other: value for other, value in whole.items() if other != name}, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"config\.json: 1 of \d+ missing \('{name}'\)"):
        convert(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="holds a bert model"):
        convert(str(tmp_path))


def test_missing_and_unknown_weights_are_named(tmp_path):
    weights = original_cffa(person_model())
    for name in (
        "base_model.visual.transformer.resblocks.0.ln_1.bias",
        "mlm_head.ln.weight",
        "visul_emb_layer.fc.weight",
    ):
        less = {other: value for other, value in weights.items() if other != name}
        with pytest.raises(InputError, match=f"lacks '{name}'"):
            convert(save(less, tmp_path / "x.pth"), image_size=IMAGE_SIZE)
    for name in ("base_model.visual.surprise", "surprise.weight"):
        with pytest.raises(InputError, match=f"it has the unknown '{name}'"):
            convert(save({**weights, name: torch.zeros(2)}, tmp_path / "x.pth"), image_size=IMAGE_SIZE)
    probe = {**original_clip(clip_model().state_dict()), "visual.attn_pool.probe": torch.zeros(2)}
    with pytest.raises(InputError, match=r"it has the unknown 'visual\.attn_pool\.probe'"):
        convert(save(probe, tmp_path / "x.pth"))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("base_model.visual.ln_pre.weight", (63,)),
        ("base_model.transformer.resblocks.1.mlp.c_proj.weight", (64, 100)),
        ("base_model.transformer.resblocks.1.attn.in_proj_weight", (10, 64)),
        ("base_model.visual.conv1.weight", (64, 768)),
        ("base_model.visual.positional_embedding", (9, 60)),
        ("mlm_head.fc.weight", (599, 64)),
        ("classifier.weight", (5, 64)),
    ],
)
def test_wrong_shapes_are_named(tmp_path, name, shape):
    weights = original_cffa(person_model()) | {name: torch.zeros(shape)}
    other = "classifier.bias" if name == "classifier.weight" else name
    with pytest.raises(InputError, match=rf"x\.pth: the checkpoint's {other}"):
        convert(save(weights, tmp_path / "x.pth"), image_size=IMAGE_SIZE)


def test_the_command_writes_into_no_folder_in_use(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["convert", "x.pth", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err


# Where a training run starts from


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = train_tokenizer(TEXTS * 50, 520)
    tokenizer.save_pretrained(folder)
    return str(folder), len(tokenizer)


def settings(source, tokenizer=None, **changes):
    fields = {"image_size": list(IMAGE_SIZE), "local_dim": 32, "cross_modal_layers": 1, **changes}
    return ModelArguments(init_from=str(source), tokenizer=tokenizer, **fields)


def start_cffa(folder, vocabulary, **fields):
    model = person_model(text={"vocab_size": vocabulary}, **fields)
    return model, save({"model": original_cffa(model)}, folder / "best.pth")


def test_a_run_starts_from_a_file_and_names_the_heads_that_do_not_fit(tmp_path, tokenizer_folder, caplog):
    tokenizer, vocabulary = tokenizer_folder
    source, path = start_cffa(tmp_path, vocabulary, cross_modal_layers=2)
    model, processor = starting_model(settings(path, tokenizer, select_ratio=0.5, local_dim=99), [], 9)
    config = model.config
    assert (config.num_identities, config.local_dim, config.cross_modal_layers) == (9, 32, 2)
    assert (config.select_ratio, config.context_length) == (0.5, 77)
    assert processor.tokenizer.model_max_length == 77
    assert len(processor.tokenizer) == vocabulary
    ours, theirs = model.state_dict(), source.state_dict()
    for name, value in theirs.items():
        assert name.startswith("identity_classifier") or torch.equal(ours[name], value), name
    assert model.identity_classifier.weight.shape == (9, 64)
    assert "newly initialised: identity_classifier (1) - 6 x 64 in the checkpoint, 9 x 64 in this model" in caplog.text


def test_the_same_number_of_identities_keeps_the_classifier(tmp_path, tokenizer_folder, caplog):
    source, path = start_cffa(tmp_path, tokenizer_folder[1])
    model, _ = starting_model(settings(path, tokenizer_folder[0]), [], 6)
    assert torch.equal(model.identity_classifier.weight, source.identity_classifier.weight)
    assert "newly initialised: nothing" in caplog.text


def test_a_run_starts_from_a_persons_clip_with_more_heads_than_we_know(tmp_path, tokenizer_folder, caplog):
    tokenizer, vocabulary = tokenizer_folder
    source = person_model(text={"vocab_size": vocabulary}, use_flfr=False, use_mlm=False, use_identity=False)
    weights = original_cffa(source) | {"mask_predictor.weight": torch.zeros(4)}
    weights |= {"classifier.weight": torch.zeros(3, 64)}
    path = save(weights, tmp_path / "nam.pth")
    model, _ = starting_model(settings(path, tokenizer), [], 6)
    same([model.cffa.visual_projection.weight], [source.cffa.visual_projection.weight], 0)
    assert "mask_predictor (1) - a head that CFFA does not have" in caplog.text
    for head in ("image_refinement", "cross_modal", "mlm_head", "identity_classifier"):
        assert head in caplog.text.partition("newly initialised")[2]
    assert torch.isfinite(torch.cat([value.float().flatten() for value in model.state_dict().values()])).all()


def test_tables_are_resized_to_what_the_config_asks(tmp_path, tokenizer_folder, caplog):
    tokenizer, vocabulary = tokenizer_folder
    source = clip_model(vocabulary=vocabulary)
    path = save(original_clip(source.state_dict()), tmp_path / "clip.pt")
    longer = settings(path, tokenizer, image_size=[96, 32], context_length=168)
    model, processor = starting_model(longer, [], 6)
    table = model.cffa.text_model.embeddings.position_embedding.weight
    square = source.vision_model.embeddings.position_embedding.weight
    same([table], [resize_positions(source.text_model.embeddings.position_embedding.weight, (77, 1), (168, 1))], 1e-6)
    ours = model.cffa.vision_model.embeddings.position_embedding.weight
    same([ours], [resize_positions(square, (4, 4), (6, 2))], 1e-6)
    assert "image positions from 4 x 4 to 6 x 2, text positions from 77 to 168" in caplog.text
    ids = processor.tokenizer(["red coat " * 100], truncation=True, return_tensors="pt")["input_ids"]
    assert ids.shape == (1, 168)
    output = model(ids, images(1, (96, 32)))
    assert torch.isfinite(output.similarity).all()

    source.save_pretrained(tmp_path / "clip")
    model, _ = starting_model(settings(tmp_path / "clip", tokenizer, image_size=[96, 32], context_length=168), [], 6)
    same([model.cffa.text_model.embeddings.position_embedding.weight], [table], 0)


def test_a_file_from_another_image_size_is_resized(tmp_path, tokenizer_folder):
    tokenizer, vocabulary = tokenizer_folder
    source = person_model(text={"vocab_size": vocabulary}, vision={"image_size": [384, 128]})
    path = save(original_cffa(source), tmp_path / "best.pth")
    model, _ = starting_model(settings(path, tokenizer, image_size=[256, 128]), [], 6)
    tables = [part.cffa.vision_model.embeddings.position_embedding.weight for part in (model, source)]
    same(tables[:1], [resize_positions(tables[1], (24, 8), (16, 8))], 1e-6)


@pytest.mark.parametrize("trunk", [True, False])
def test_a_run_starts_from_our_own_folders(tmp_path, tokenizer_folder, caplog, trunk):
    source = person_model(text={"vocab_size": tokenizer_folder[1]})
    (source.base_model if trunk else source).save_pretrained(tmp_path / "ours")
    changed = settings(tmp_path / "ours", tokenizer_folder[0], image_size=[96, 32], text_attention_dropout=0.2)
    model, _ = starting_model(changed, [], 9)
    ours, theirs = model.state_dict(), source.state_dict()
    for name in theirs:
        fresh = name.startswith("identity") or (trunk and name.startswith(("cross_modal", "mlm_head")))
        assert fresh or "position" in name or torch.equal(ours[name], theirs[name]), name
    assert (model.config.image_size, model.config.text_config.attention_dropout) == ((96, 32), 0.2)
    assert model.cffa.text_model.encoder.layers[0].self_attn.dropout == 0.2
    fresh = caplog.text.partition("newly initialised")[2]
    assert "identity_classifier" in fresh
    assert ("mlm_head" in fresh) == trunk


def test_a_persons_model_keeps_its_image_size_and_a_general_clip_gets_the_published_one(tmp_path, tokenizer_folder):
    tokenizer, vocabulary = tokenizer_folder
    source = person_model(text={"vocab_size": vocabulary}, vision={"image_size": [96, 32]})
    source.base_model.save_pretrained(tmp_path / "ours")
    model, processor = starting_model(settings(tmp_path / "ours", tokenizer, image_size=None), [], 6)
    assert model.config.image_size == (96, 32)
    assert processor.image_processor.size["height"] == 96
    path = save(original_clip(clip_model(vocabulary=vocabulary).state_dict()), tmp_path / "clip.pt")
    model, _ = starting_model(settings(path, tokenizer, image_size=None), [], 6)
    assert model.config.image_size == PUBLISHED_SIZE


def test_switched_off_heads_are_left_out(tmp_path, tokenizer_folder, caplog):
    _, path = start_cffa(tmp_path, tokenizer_folder[1])
    model, _ = starting_model(settings(path, tokenizer_folder[0], use_flfr=False, use_mlm=False), [], 6)
    assert model.cross_modal is model.mlm_head is model.cffa.image_refinement is None
    assert "switched off in the model" in caplog.text


def test_a_file_needs_a_tokenizer(tmp_path):
    _, path = start_cffa(tmp_path, 600)
    with pytest.raises(InputError, match=r"init_from: .* has no tokenizer with it: set 'tokenizer'"):
        starting_model(settings(path), [], 6)
    with pytest.raises(InputError, match=r"init_from: .* has no tokenizer \(tokenizer\.json"):
        starting_model(settings(path, str(tmp_path)), [], 6)


def test_random_weights_with_a_given_tokenizer(tokenizer_folder):
    arguments = settings("x", tokenizer_folder[0], hidden_size=64, num_layers=1, projection_dim=64)
    arguments.init_from = None
    model, processor = starting_model(arguments, [], 6)
    assert len(processor.tokenizer) == tokenizer_folder[1] == model.config.text_config.vocab_size


def convert_now(source, out):
    main(["convert", str(source), str(out), "--image-size", "192", "64"])


@pytest.mark.slow
def test_a_killed_conversion_can_be_run_again(golden_folder, tmp_path):
    context = multiprocessing.get_context("fork")
    torch.set_num_threads(1)
    out, source = tmp_path / "out", golden_folder / "cffa_tiny.pth"
    began = time.perf_counter()
    convert_now(source, tmp_path / "whole")
    seconds = time.perf_counter() - began
    expected = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    for seed in range(10):
        process = context.Process(target=convert_now, args=(source, out))
        process.start()
        time.sleep(random.Random(seed).uniform(0, 1.5 * seconds))
        process.kill()
        process.join()
        if not out.exists():
            assert main(["convert", str(source), str(out), "--image-size", "192", "64"]) == 0
        assert {path.name: path.read_bytes() for path in out.iterdir()} == expected
        shutil.rmtree(out)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_conversion_without_room_is_one_sentence(golden_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = [
        "convert",
        str(golden_folder / "cffa_tiny.pth"),
        str(tmp_path / "file" / "out"),
        "--image-size",
        "192",
        "64",
    ]
    assert main(words) == 2
    assert "cannot be written" in capsys.readouterr().err
