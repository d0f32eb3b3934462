import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, CLIPConfig, CLIPModel

from cffa_hf import CFFAConfig, CFFAForPreTraining, CFFAModel, CFFAOutput
from cffa_hf.loss_terms import loss_terms
from cffa_hf.losses import LossSettings
from cffa_hf.modeling_cffa import choose_tokens, combine_features, resize_positions
from tests.tiny import (
    END,
    IMAGE_SIZE,
    MASK,
    START,
    TEXT,
    VISION,
    VOCABULARY,
    captions,
    images,
    mask_of,
    random_words,
    tiny_config,
    tiny_model,
)

WORDS = st.lists(st.integers(1, MASK), max_size=75)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def eager_model(model):
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"
    eager = CFFAForPreTraining(config).eval()
    eager.load_state_dict(model.state_dict())
    return eager


def batch(sizes=(5, 40, 12, 75), **changes):
    """Captions of different length, masked in places, with images."""
    ids = captions(*(random_words(size, seed) for seed, size in enumerate(sizes)))
    labels = torch.full_like(ids, -100)
    for row, size in enumerate(sizes):
        place = 1 + row % size
        labels[row, place] = ids[row, place]
        ids[row, place] = MASK
    return {
        "input_ids": ids,
        "attention_mask": mask_of(ids),
        "pixel_values": images(len(sizes)),
        "mlm_labels": labels,
        **changes,
    }


def total_loss(model, inputs):
    output = model(**inputs)
    labels = torch.tensor([0, 1, 0, 2])[: len(inputs["input_ids"])]
    terms = loss_terms(
        LossSettings(),
        labels,
        global_features=(output.text_global, output.image_global),
        local_features=(output.text_local, output.image_local),
        identity_logits=(output.text_identity_logits, output.image_identity_logits),
        mlm_logits=output.mlm_logits,
        mlm_labels=inputs["mlm_labels"],
    )
    return sum(terms.values())


# Embedding and output


def test_embedding_is_unit_and_its_dot_product_is_the_mean_of_both_cosines(model):
    inputs = batch()
    with torch.no_grad():
        output = model(**inputs)
    expected = (
        F.cosine_similarity(output.text_global[:, None], output.image_global[None], dim=-1)
        + F.cosine_similarity(output.text_local[:, None], output.image_local[None], dim=-1)
    ) / 2
    torch.testing.assert_close(output.similarity, expected)
    for embeds in (output.text_embeds, output.image_embeds):
        assert embeds.shape == (4, 96)
        torch.testing.assert_close(embeds.norm(dim=1), torch.ones(4))


def test_get_features_equal_forward(model):
    inputs = batch()
    trunk = model.base_model
    assert type(trunk) is CFFAModel
    with torch.no_grad():
        output = model(**inputs)
        both = trunk(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"])
        for either in (model, trunk):
            assert torch.equal(either.get_image_features(inputs["pixel_values"]), output.image_embeds)
            assert torch.equal(either.get_text_features(inputs["input_ids"]), output.text_embeds)
        for name, value in both.items():
            assert torch.equal(value, output[name]), name
        only_text = trunk(input_ids=inputs["input_ids"])
        assert only_text.image_embeds is None
        assert only_text.similarity is None
        assert torch.equal(only_text.text_embeds, output.text_embeds)
        assert trunk(pixel_values=inputs["pixel_values"]).text_embeds is None
    with pytest.raises(ValueError, match="input_ids"):
        trunk()


def test_tuple_output_has_the_order_of_the_fields(model):
    inputs = batch()
    fields = list(CFFAOutput.__dataclass_fields__)
    trunk_inputs = {name: inputs[name] for name in ("input_ids", "pixel_values", "attention_mask")}
    with torch.no_grad():
        for either, given_inputs in ((model, inputs), (model.base_model, trunk_inputs)):
            output = either(**given_inputs)
            assert [name for name in fields if getattr(output, name) is not None] == list(output.keys())
            for named, bare in zip(output.values(), either(**given_inputs, return_dict=False), strict=True):
                assert torch.equal(named, bare)


# Saving and loading


def test_auto_classes_and_bit_equal_embeddings(model, tmp_path):
    inputs = batch()
    with torch.no_grad():
        before = model(**inputs)
    model.save_pretrained(tmp_path / "training")
    model.base_model.save_pretrained(tmp_path / "trunk")
    assert type(AutoConfig.from_pretrained(tmp_path / "trunk")) is CFFAConfig
    for folder in ("training", "trunk"):
        trunk, info = AutoModel.from_pretrained(tmp_path / folder, output_loading_info=True)
        assert type(trunk) is CFFAModel
        assert not trunk.training
        assert not info["missing_keys"]
        assert not info["mismatched_keys"]
        with torch.no_grad():
            assert torch.equal(trunk.get_image_features(inputs["pixel_values"]), before.image_embeds)
            assert torch.equal(trunk.get_text_features(inputs["input_ids"]), before.text_embeds)
            bare = trunk(inputs["input_ids"], inputs["pixel_values"], return_dict=False)
            assert torch.equal(bare[0], before.image_embeds)
        whole, info = AutoModelForPreTraining.from_pretrained(tmp_path / folder, output_loading_info=True)
        assert type(whole) is CFFAForPreTraining
        assert all(not name.startswith("cffa.") for name in info["missing_keys"])
        with torch.no_grad():
            after = whole(**inputs)
        assert torch.equal(after.similarity, before.similarity)
        if folder == "training":
            assert torch.equal(after.mlm_logits, before.mlm_logits)
            assert torch.equal(after.image_identity_logits, before.image_identity_logits)
            assert not info["missing_keys"]


def weights_are_sane(model):
    """Check scale and finiteness: fresh weights must not come out of the library's default of std 1."""
    for name, value in model.named_parameters():
        assert value.isfinite().all(), name
        if value.dim() > 1:
            assert 0 < value.std() < 0.2, f"{name} has a standard deviation of {value.std():.3f}"
        elif name.endswith("bias"):
            assert value.abs().max() < 0.3, name
        elif "norm" in name or "layrnorm" in name:
            assert torch.equal(value, torch.ones_like(value)), name
    for name, value in model.named_buffers():
        if name.endswith("running_var"):
            assert torch.equal(value, torch.ones_like(value)), name
        elif name.endswith(("running_mean", "num_batches_tracked")):
            assert not value.any(), name
        elif name.endswith("position_ids"):
            assert torch.equal(value, torch.arange(value.shape[1])[None]), name


def test_initial_weights():
    weights_are_sane(tiny_model())
    classifier = tiny_model(num_identities=2000).identity_classifier
    assert classifier.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert not classifier.bias.any()


def test_fresh_heads_on_a_loaded_trunk(tmp_path):
    tiny_model(use_flfr=False).base_model.save_pretrained(tmp_path)
    loaded, info = CFFAForPreTraining.from_pretrained(
        tmp_path, use_flfr=True, num_identities=9, cross_modal_layers=2, output_loading_info=True
    )
    assert {name.split(".")[0] for name in info["missing_keys"]} == {
        "cffa",
        "identity_classifier",
        "cross_modal",
        "mlm_head",
    }
    weights_are_sane(loaded)
    assert loaded.identity_classifier.weight.shape == (9, 64)
    assert len(loaded.cross_modal.layers) == 2


# Starting from CLIP


def save_clip(folder, *, side=64, patch=16, legacy=False, act="quick_gelu", dtype=torch.float32):
    """Write a CLIP checkpoint with random weights and return the model."""
    torch.manual_seed(1)
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1} if legacy else {"eos_token_id": END}
    clip = CLIPModel(
        CLIPConfig(
            text_config={**TEXT, **ids, "vocab_size": VOCABULARY, "hidden_act": act},
            vision_config={**VISION, "image_size": side, "patch_size": patch, "hidden_act": act},
            projection_dim=64,
        )
    ).eval()
    for embedding in (clip.vision_model.embeddings, clip.text_model.embeddings):  # positions worth resizing
        torch.nn.init.normal_(embedding.position_embedding.weight)
    clip.to(dtype).save_pretrained(folder)
    return clip


def clip_features(features):
    """The projected, pooled features; newer releases wrap them in an output."""
    return getattr(features, "pooler_output", features)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_global_features_equal_clip_on_the_square(tmp_path, legacy, act):
    clip = save_clip(tmp_path, legacy=legacy, act=act)
    model = CFFAModel.from_clip_pretrained(str(tmp_path), image_size=(64, 64), local_dim=32).eval()
    ids = captions(random_words(6), random_words(70, 1), random_words(20, 2), length=77)
    with torch.no_grad():
        text = clip_features(clip.get_text_features(input_ids=ids, attention_mask=mask_of(ids)))
        image = clip_features(clip.get_image_features(pixel_values=images(3, (64, 64))))
        ours = model(ids, images(3, (64, 64)))
    torch.testing.assert_close(ours.text_global, text, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.image_global, image, atol=1e-5, rtol=1e-5)
    assert model.config.text_config.eos_token_id == END
    assert model.config.text_config.attention_dropout == 0.05


@pytest.mark.parametrize("stride", [None, 8])
def test_square_positions_are_resized_once_and_bilinearly(tmp_path, stride):
    clip = save_clip(tmp_path)
    model = CFFAForPreTraining.from_clip_pretrained(
        str(tmp_path), image_size=(96, 32), stride=stride, local_dim=32, num_identities=3, cross_modal_layers=1
    )
    assert type(model) is CFFAForPreTraining
    old = clip.vision_model.embeddings.position_embedding.weight.detach()
    new = model.cffa.vision_model.embeddings.position_embedding.weight.detach()
    grid = (6, 2) if stride is None else (11, 3)
    expected = F.interpolate(
        old[1:].reshape(4, 4, 64).permute(2, 0, 1)[None], size=grid, mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(new[1:], expected[0].permute(1, 2, 0).reshape(-1, 64))
    assert torch.equal(new[0], old[0])
    assert torch.equal(
        model.cffa.text_model.embeddings.token_embedding.weight, clip.text_model.embeddings.token_embedding.weight
    )
    model.save_pretrained(tmp_path / "saved")
    again = AutoModel.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.vision_model.embeddings.position_embedding.weight, new)


def test_fresh_parts_beside_clip_weights_are_sane(tmp_path):
    save_clip(tmp_path)
    model = CFFAForPreTraining.from_clip_pretrained(str(tmp_path), image_size=(64, 32), num_identities=5)
    for part in (model.cross_modal, model.mlm_head, model.identity_classifier, model.cffa.image_refinement):
        weights_are_sane(part)


def test_a_shorter_context_leaves_short_captions_as_they_were(tmp_path):
    clip = save_clip(tmp_path)
    model = CFFAModel.from_clip_pretrained(str(tmp_path), image_size=(64, 64), context_length=32).eval()
    ids = captions(random_words(6), random_words(29, 1))
    with torch.no_grad():
        expected = clip_features(clip.get_text_features(input_ids=ids, attention_mask=mask_of(ids)))
        ours = model(ids).text_global
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert model.config.context_length == 32
    assert model.config.selected_words == 9


def test_a_longer_context_is_finite_and_accepts_long_captions(tmp_path):
    save_clip(tmp_path)
    model = CFFAModel.from_clip_pretrained(str(tmp_path), image_size=(64, 64), context_length=120).eval()
    with torch.no_grad():
        assert model.get_text_features(captions(random_words(118))).isfinite().all()


def test_half_precision_checkpoints_become_float32_weights(tmp_path):
    clip = save_clip(tmp_path, dtype=torch.float16)
    model = CFFAModel.from_clip_pretrained(str(tmp_path), image_size=(64, 32))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.text_projection.weight, clip.text_projection.weight.float())
    half = CFFAModel.from_clip_pretrained(str(tmp_path), image_size=(64, 32), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


def test_resize_positions_keeps_what_fits():
    table = torch.randn(13, 5)
    assert resize_positions(table, (4, 3), (4, 3)) is table
    constant = torch.cat([table[:1], table[1:2].expand(12, -1)])
    resized = resize_positions(constant, (4, 3), (7, 2))
    torch.testing.assert_close(resized, torch.cat([table[:1], table[1:2].expand(14, -1)]))


# Captions: padding, batches, length


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(WORDS, min_size=1, max_size=4),
    pad=st.sampled_from([0, END]),
    extra=st.integers(0, 5),
    give_mask=st.booleans(),
)
def test_padding_and_company_do_not_change_a_caption(model, rows, pad, extra, give_mask):
    length = min(77, max(map(len, rows)) + 2 + extra)
    ids = captions(*rows, length=length, pad=pad)
    with torch.no_grad():
        together = model.get_text_features(ids, mask_of(ids) if give_mask else None)
        for row, words in enumerate(rows):
            alone = model.get_text_features(captions(words))
            torch.testing.assert_close(together[row : row + 1], alone, atol=2e-5, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(rows)))


def test_what_stands_behind_the_first_end_token_is_not_read(model):
    ids = captions(random_words(5), random_words(9, 1), length=20)
    noise = ids.clone()
    noise[0, 7:], noise[1, 11:] = 17, START
    with torch.no_grad():
        first, second = (model.get_text_features(each) for each in (ids, noise))
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


def test_a_caption_without_an_end_token_is_pooled_at_its_last_token(model):
    ids = torch.tensor([[START, 5, 6, 7, 0, 0], [START, 5, 6, 7, 8, 9]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        together = model.base_model(ids, attention_mask=mask)
        alone = model.base_model(ids[:1, :4])
    torch.testing.assert_close(together.text_global[:1], alone.text_global, atol=1e-6, rtol=0)
    torch.testing.assert_close(together.text_embeds[:1], alone.text_embeds, atol=1e-6, rtol=0)


def test_the_text_runs_at_the_longest_caption(model):
    lengths = []
    hook = model.cffa.text_model.embeddings.register_forward_hook(lambda *given: lengths.append(given[2].shape[1]))
    with torch.no_grad():
        model.get_text_features(captions(random_words(5), random_words(11, 1), length=77))
    hook.remove()
    assert lengths == [13]


def test_empty_captions(model):
    nothing = captions([], [], length=77)
    mixed = captions([], random_words(8), length=20)
    with torch.no_grad():
        for ids in (nothing, mixed, torch.full((1, 5), END)):
            embeds = model.get_text_features(ids)
            assert embeds.isfinite().all()
            torch.testing.assert_close(embeds.norm(dim=1), torch.ones(len(ids)))
    model_in_training = copy.deepcopy(model).train()
    model_in_training.get_text_features(captions([])).sum().backward()
    assert model_in_training.cffa.text_refinement.linear.weight.grad.isfinite().all()


# Attention and the selected tokens


def test_eager_equals_fused_attention(model, eager_model):
    inputs = batch()
    with torch.no_grad():
        fused, eager = model(**inputs), eager_model(**inputs)
    for name, value in fused.items():
        torch.testing.assert_close(value, eager[name], atol=1e-4, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_the_attention_can_be_chosen_at_loading_and_later(model, tmp_path):
    model.base_model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
    changed = copy.deepcopy(model)
    changed.set_attn_implementation("eager")
    for module in [*loaded.modules(), *changed.cffa.modules()]:
        if hasattr(module, "q_proj") and hasattr(module, "config"):
            assert module.config._attn_implementation == "eager", type(module)


def last_attention(model, run):
    """Call `run` and return the attention of the last layer, mean over heads, as the eager layer itself reports it."""
    found = {}
    hooks = [
        tower.encoder.layers[-1].self_attn.register_forward_hook(
            lambda *given, name=name: found.__setitem__(name, given[2][1].mean(dim=1))
        )
        for name, tower in (("image", model.cffa.vision_model), ("text", model.cffa.text_model))
    ]
    with torch.no_grad():
        output = run()
    for hook in hooks:
        hook.remove()
    return output, found


def refined(refinement, tokens):
    """FLFR by hand: unit tokens, a linear and a two-layer road, the greatest of each channel."""
    tokens = tokens / tokens.norm(dim=-1, keepdim=True)
    norm = refinement.batch_norm
    hidden = refinement.mlp_in(tokens)
    hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    return (refinement.linear(tokens) + refinement.mlp_out(hidden.relu())).amax(dim=0)


def test_local_features_come_from_the_tokens_with_most_attention(eager_model):
    torch.manual_seed(3)
    for refinement in (eager_model.cffa.image_refinement, eager_model.cffa.text_refinement):
        refinement.batch_norm.running_mean.normal_()
        refinement.batch_norm.running_var.uniform_(0.5, 2)
    sizes = (5, 40, 12, 75)
    inputs = batch(sizes)
    trunk = eager_model.cffa
    output, attention = last_attention(
        eager_model, lambda: trunk(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"])
    )
    with torch.no_grad():
        images, texts = trunk.encode_images(inputs["pixel_values"]), trunk.encode_captions(inputs["input_ids"])
        for row, size in enumerate(sizes):
            patches = attention["image"][row, 0, 1:].sort(descending=True).indices[: int(0.3 * 8)]
            assert images.chosen.positions[row].tolist() == patches.tolist()
            expected = refined(trunk.image_refinement, images.tokens[row, 1 + patches])
            torch.testing.assert_close(output.image_local[row], expected, atol=1e-5, rtol=1e-4)
            end = size + 1
            words = 1 + attention["text"][row, end, 1:end].sort(descending=True).indices[: int(0.3 * 75)]
            assert len(words) == min(22, size)
            assert texts.chosen.positions[row][texts.chosen.kept[row]].tolist() == words.tolist()
            expected = refined(trunk.text_refinement, texts.tokens[row, words])
            torch.testing.assert_close(output.text_local[row], expected, atol=1e-5, rtol=1e-4)
            assert texts.mask[row].sum() == end + 1


@pytest.mark.parametrize("tower", ["vision_model", "text_model"])
def test_the_attention_row_equals_the_whole_matrix(eager_model, tower):
    layer = getattr(eager_model.cffa, tower).encoder.layers[-1]
    hidden = torch.randn(3, 9, 64)
    pooled = torch.tensor([8, 3, 0])
    causal = tower == "text_model"
    mask = torch.full((9, 9), -math.inf).triu(1)[None, None] if causal else None
    with torch.no_grad():
        row = layer.pooled_attention(hidden, pooled, causal)
        _, matrix = layer.self_attn(layer.layer_norm1(hidden), mask)
    torch.testing.assert_close(row, matrix.mean(dim=1)[torch.arange(3), pooled])
    torch.testing.assert_close(row.sum(dim=1), torch.ones(3))
    assert not row.requires_grad


@settings(max_examples=50, deadline=None)
@given(data=st.data(), count=st.integers(1, 30))
def test_the_most_salient_tokens_are_chosen(data, count):
    saliency = torch.tensor([data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count)) for _ in range(3)])
    mask = torch.tensor([data.draw(st.lists(st.booleans(), min_size=count, max_size=count)) for _ in range(3)])
    tokens = torch.randn(3, count, 2)
    chosen = choose_tokens(tokens, saliency, 22, mask)
    for row in range(3):
        real = chosen.positions[row][chosen.kept[row]]
        assert len(real) == min(22, int(mask[row].sum()))
        assert torch.equal(chosen.tokens[row], tokens[row, chosen.positions[row]])
        assert len(set(real.tolist())) == len(real)
        assert mask[row, real].all()
        scores = saliency[row, real]
        assert (scores[:-1] >= scores[1:]).all()
        others = mask[row].clone()
        others[real] = False
        if others.any() and len(real):
            assert saliency[row, others].max() <= scores[-1]


def test_local_features_can_be_refined_later(model):
    """What `refine=False` leaves out, the refinement makes of the chosen tokens: the same numbers and statistics."""
    for mode in (True, False):
        whole, parts = copy.deepcopy(model).train(mode), copy.deepcopy(model).train(mode)
        for training in (whole, parts):
            for layer in training.cffa.text_model.encoder.layers:
                layer.self_attn.dropout = 0.0
        inputs, trunk = batch(), parts.cffa
        expected, output = whole(**inputs), parts(**inputs, refine=False)
        assert output.image_local is output.text_local is expected.image_chosen is expected.text_chosen is None
        assert trunk.image_refinement.batch_norm.num_batches_tracked == 0
        assert torch.equal(output.image_global, expected.image_global)
        assert torch.equal(output.mlm_logits, expected.mlm_logits)
        assert torch.equal(trunk.image_refinement(output.image_chosen), expected.image_local)
        assert torch.equal(trunk.text_refinement(output.text_chosen), expected.text_local)
        for name, value in whole.named_buffers():
            assert torch.equal(dict(parts.named_buffers())[name], value), name


# Masked language modelling


def test_mlm_logits_at_masked_positions_equal_those_of_all_positions(model):
    inputs = batch()
    chosen = inputs["mlm_labels"] != -100
    words = inputs["attention_mask"].bool()
    with torch.no_grad():
        some = model(**inputs).mlm_logits
        everywhere = model(**{**inputs, "mlm_labels": torch.where(words, inputs["input_ids"], -100)}).mlm_logits
        by_hand, rows = [], 0
        for row in range(4):
            rows_here = int(words[row].sum())
            by_hand.append(everywhere[rows : rows + rows_here][chosen[row][words[row]]])
            rows += rows_here
    assert some.shape == (4, VOCABULARY)
    assert everywhere.shape == (int(words.sum()), VOCABULARY)
    torch.testing.assert_close(some, torch.cat(by_hand), atol=1e-6, rtol=1e-5)


def test_mlm_logits_do_not_depend_on_padding_or_company(model):
    inputs = batch()
    with torch.no_grad():
        together = model(**inputs).mlm_logits
        for row in range(4):
            length = int(inputs["attention_mask"][row].sum())
            alone = {name: value[row : row + 1] for name, value in inputs.items()}
            for name in ("input_ids", "attention_mask", "mlm_labels"):
                alone[name] = alone[name][:, :length]
            torch.testing.assert_close(model(**alone).mlm_logits, together[row : row + 1], atol=1e-5, rtol=1e-4)


def test_masked_captions_beside_unmasked_ones(model):
    inputs = batch()
    unmasked = torch.where(inputs["mlm_labels"] != -100, inputs["mlm_labels"], inputs["input_ids"])
    two = {**inputs, "input_ids": unmasked, "masked_input_ids": inputs["input_ids"]}
    with torch.no_grad():
        shared, separate, plain = model(**inputs), model(**two), model(**{**inputs, "input_ids": unmasked})
    assert torch.equal(separate.mlm_logits, shared.mlm_logits)
    assert torch.equal(separate.text_embeds, plain.text_embeds)
    assert not torch.equal(separate.text_embeds, shared.text_embeds)


def test_no_masked_position_gives_no_logits(model):
    labels = torch.full((4, 77), -100)
    with torch.no_grad():
        assert model(**batch(mlm_labels=labels)).mlm_logits.shape == (0, VOCABULARY)
        assert model(**batch(mlm_labels=None)).mlm_logits is None


# Training


def test_statistics_of_the_batch_norm_ignore_padding(model):
    rows = [random_words(size, seed) for seed, size in enumerate((3, 9, 14))]
    results = []
    for ids in (captions(*rows), captions(*rows, length=77), captions(*rows, length=40, pad=0)):
        training = copy.deepcopy(model).train()
        for layer in training.cffa.text_model.encoder.layers:
            layer.self_attn.dropout = 0.0
        output = training.cffa(ids)
        results.append((output.text_local, training.cffa.text_refinement.batch_norm.running_mean))
    for local, mean in results[1:]:
        torch.testing.assert_close(local, results[0][0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mean, results[0][1], atol=1e-6, rtol=1e-5)


def test_every_parameter_gets_a_gradient(model):
    training = copy.deepcopy(model).train()
    total_loss(training, batch()).backward()
    for name, parameter in training.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_gradient_checkpointing_gives_equal_gradients(model):
    gradients = []
    for checkpointing in (False, True):
        training = copy.deepcopy(model).train()
        if checkpointing:
            training.gradient_checkpointing_enable()
            assert training.is_gradient_checkpointing
        total_loss(training, batch()).backward()
        gradients.append({name: parameter.grad for name, parameter in training.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda m, name=name: f"{name}: {m}")


def test_one_pair_trains(model):
    training = copy.deepcopy(model).train()
    loss = total_loss(training, batch((1,)))
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in training.parameters())


# Precision, sizes, switches


def test_bfloat16_weights(model):
    inputs = batch()
    half = copy.deepcopy(model).to(torch.bfloat16)
    with torch.no_grad():
        full, low = model(**inputs), half(**inputs)
    assert low.text_embeds.dtype == low.similarity.dtype == torch.float32
    assert low.text_global.dtype == torch.bfloat16
    close(low, full)
    half.train()
    total_loss(half, inputs).backward()
    assert all(parameter.grad.isfinite().all() for parameter in half.parameters())


def test_autocast(model):
    inputs = batch()
    with torch.no_grad():
        full = model(**inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = model(**inputs)
    assert low.text_embeds.dtype == torch.float32
    close(low, full)
    training = copy.deepcopy(model).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total_loss(training, inputs)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in training.parameters())


def close(low, full):
    """Compare at the precision of bfloat16; a token more or less may be selected."""
    for name in ("text_global", "image_global"):
        assert F.cosine_similarity(low[name].float(), full[name], dim=-1).min() > 0.995, name
    for name in ("text_local", "image_local"):
        assert F.cosine_similarity(low[name].float(), full[name], dim=-1).min() > 0.97, name
    assert (low.similarity - full.similarity).abs().max() < 0.05
    assert all(value.isfinite().all() for value in low.values())


@pytest.mark.parametrize(
    ("size", "patch", "stride"),
    [
        ((64, 32), 16, 8),
        ((64, 32), 16, 5),
        ((70, 28), 14, None),
        ((96, 32), 32, None),
        ((50, 30), 16, 7),
        ((16, 16), 16, 1),
    ],
)
def test_patches_and_strides(size, patch, stride):
    model = tiny_model(vision={"image_size": list(size), "patch_size": patch}, stride=stride)
    rows, columns = model.config.grid_size
    pixels = images(2, size)
    with torch.no_grad():
        encoding = model.cffa.encode_images(pixels)
        embeds = model.get_image_features(pixels)
    assert encoding.tokens.shape == (2, 1 + rows * columns, 64)
    assert encoding.local.shape == (2, 32)
    torch.testing.assert_close(embeds.norm(dim=1), torch.ones(2))


def test_overlapping_patches_stand_where_they_should():
    model = tiny_model(stride=8)
    embeddings = model.cffa.vision_model.embeddings
    pixels = images(1)
    with torch.no_grad():
        tokens = embeddings(pixels) - embeddings.position_embedding.weight
        weight = embeddings.patch_embedding.weight
        for row in range(7):
            for column in range(3):
                patch = pixels[0, :, 8 * row : 8 * row + 16, 8 * column : 8 * column + 16]
                torch.testing.assert_close(
                    tokens[0, 1 + 3 * row + column], (weight * patch).sum(dim=(1, 2, 3)), atol=1e-4, rtol=1e-4
                )


@pytest.mark.parametrize(
    ("vision", "text", "grid"),
    [
        (
            {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14},
            {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12},
            (27, 9),
        ),
        (
            {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12, "patch_size": 32},
            {"hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 12},
            (12, 4),
        ),
    ],
    ids=["ViT-L/14", "ViT-B/32"],
)
def test_the_sizes_of_clip(vision, text, grid):
    width = {key: 4 * sizes["hidden_size"] for key, sizes in (("vision", vision), ("text", text))}
    config = CFFAConfig(
        vision_config={**vision, "intermediate_size": width["vision"], "image_size": [384, 128]},
        text_config={**text, "intermediate_size": width["text"]},
        projection_dim=text["hidden_size"],
        num_identities=11003,
    )
    with torch.device("meta"):
        model = CFFAForPreTraining(config)
        encoding = model.cffa.encode_images(torch.empty(2, 3, 384, 128))
    assert config.grid_size == grid
    assert encoding.tokens.shape == (2, 1 + grid[0] * grid[1], text["hidden_size"])
    assert encoding.local.shape == (2, 1024)
    assert config.cross_modal_heads == text["hidden_size"] // 64


def test_images_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match=r"384 x 128 pixels.*64 x 32"):
        model.get_image_features(images(1, (384, 128)))
    with pytest.raises(ValueError, match="32 x 64 pixels"):
        model.get_image_features(images(1, IMAGE_SIZE[::-1]))


def test_without_local_features():
    model = tiny_model(use_flfr=False)
    with torch.no_grad():
        output = model(**batch())
    assert output.image_local is None
    assert output.text_local is None
    assert output.text_embeds.shape == (4, 64)
    torch.testing.assert_close(output.text_embeds, F.normalize(output.text_global, dim=-1))
    assert not any("refinement" in name for name in model.state_dict())


def test_without_mlm():
    model = tiny_model(use_mlm=False)
    with torch.no_grad():
        assert model(**batch(mlm_labels=None)).mlm_logits is None
    with pytest.raises(ValueError, match="use_mlm"):
        model(**batch())
    assert not any(name.startswith(("cross_modal", "mlm_head")) for name in model.state_dict())


def test_without_identity_classifier():
    model = tiny_model(use_identity=False, num_identities=0)
    with torch.no_grad():
        output = model(**batch())
    assert output.image_identity_logits is None
    assert output.text_identity_logits is None
    assert not any("classifier" in name for name in model.state_dict())


def test_identity_classifier_is_shared(model):
    inputs = batch()
    with torch.no_grad():
        output = model(**inputs)
        weight, bias = model.identity_classifier.weight, model.identity_classifier.bias
    torch.testing.assert_close(output.image_identity_logits, output.image_global @ weight.T + bias)
    torch.testing.assert_close(output.text_identity_logits, output.text_global @ weight.T + bias)


def test_without_cross_modal_layers():
    model = tiny_model(cross_modal_layers=0)
    weights_are_sane(model)
    with torch.no_grad():
        assert model(**batch()).mlm_logits.isfinite().all()


def test_combined_features_of_tiny_and_huge_vectors():
    combined = combine_features(torch.full((1, 4), 1e-6, dtype=torch.bfloat16), torch.full((1, 3), 1e6))
    torch.testing.assert_close(combined.norm(dim=1), torch.ones(1))
    assert combine_features(torch.zeros(1, 4), None).isfinite().all()


def test_token_embeddings_can_be_replaced():
    model = tiny_model()
    assert model.get_input_embeddings() is model.cffa.text_model.embeddings.token_embedding
    new = torch.nn.Embedding(VOCABULARY, 64)
    model.cffa.set_input_embeddings(new)
    assert model.get_input_embeddings() is new


def test_configuration_of_the_tests_is_small():
    assert sum(p.numel() for p in CFFAForPreTraining(tiny_config()).parameters()) < 600_000
