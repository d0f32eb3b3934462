import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig
from transformers.models.clip.configuration_clip import CLIPTextConfig

from cffa_hf import CFFAConfig
from tests.tiny import tiny_config


def test_the_default_is_the_published_size():
    config = CFFAConfig()
    assert config.image_size == (384, 128)
    assert config.grid_size == (24, 8)
    assert config.stride == config.vision_config.patch_size == 16
    assert config.context_length == 77
    assert (config.selected_patches, config.selected_words) == (57, 22)
    assert config.embedding_dim == 512 + 1024
    assert config.cross_modal_heads == 8
    ids = config.text_config
    assert (config.mask_token_id, ids.bos_token_id, ids.eos_token_id, ids.pad_token_id) == (49405, 49406, 49407, 49407)


@pytest.mark.parametrize(
    ("size", "patch", "stride", "grid"),
    [
        ((384, 128), 16, 12, (31, 10)),
        ((384, 128), 16, 8, (47, 15)),
        ((224, 224), 32, None, (7, 7)),
        ((224, 98), 14, None, (16, 7)),
        ((384, 128), 14, None, (27, 9)),
        ((16, 40), 16, 1, (1, 25)),
    ],
)
def test_grid(size, patch, stride, grid):
    config = tiny_config(vision={"image_size": list(size), "patch_size": patch}, stride=stride)
    assert config.grid_size == grid


def test_at_least_one_token_is_selected():
    config = tiny_config(select_ratio=0.001)
    assert (config.selected_patches, config.selected_words) == (1, 1)
    assert tiny_config(select_ratio=1).selected_patches == 8


def test_an_integer_image_size_is_a_square():
    assert tiny_config(vision={"image_size": 64}).image_size == (64, 64)


@pytest.mark.parametrize("as_object", [False, True])
def test_legacy_special_ids_are_replaced(as_object):
    text = {"vocab_size": 600, "hidden_size": 64, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    given = CLIPTextConfig(**text) if as_object else dict(text)
    config = CFFAConfig(text_config=given)
    assert (config.text_config.bos_token_id, config.text_config.eos_token_id) == (598, 599)
    assert config.text_config.hidden_size == 64
    # What was given stays as it was.
    assert (given.eos_token_id if as_object else given["eos_token_id"]) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"stride": 0},
        {"stride": 17},
        {"select_ratio": 0.0},
        {"select_ratio": 1.5},
        {"vision": {"image_size": [64, 8]}},
        {"projection_dim": 200},
        {"num_identities": 0},
        {"local_dim": "wide"},
        {"use_mlm": "yes"},
        {"local_dim": 0},
        {"local_dim": 1},
        {"cross_modal_layers": -1},
        {"vision": {"image_size": [64]}},
        {"vision": {"image_size": [64, 32, 3]}},
    ],
    ids=str,
)
def test_impossible_values_are_refused(wrong):
    field = next(iter(wrong)).replace("vision", "image_size")
    with pytest.raises(StrictDataclassError, match=field):
        tiny_config(**wrong)


def test_round_trip(tmp_path):
    config = tiny_config(stride=8, select_ratio=0.5, use_identity=False)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is CFFAConfig
    different = {name for name, value in loaded.to_dict().items() if value != config.to_dict()[name]}
    assert different <= {"_name_or_path", "transformers_version"}
    assert loaded.grid_size == config.grid_size == (7, 3)
    assert loaded.image_size == (64, 32)


def test_auto_map_names_the_trunk_and_the_training_model():
    given = tiny_config(auto_map={"AutoModel": "elsewhere.Other"}).auto_map
    assert given["AutoModel"] == "elsewhere.Other"
    assert tiny_config().auto_map == {
        "AutoConfig": "configuration_cffa.CFFAConfig",
        "AutoModel": "modeling_cffa.CFFAModel",
        "AutoModelForPreTraining": "modeling_cffa.CFFAForPreTraining",
    }
