import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cffa_hf.loss_terms import alignment_terms, loss_terms
from cffa_hf.losses import (
    ALIGNMENT_LOSSES,
    AlignmentLoss,
    LossSettings,
    cosine_similarity,
    cross_modal_projection_matching_loss,
    hardest_triplet_loss,
    identity_loss,
    info_nce_loss,
    masked_language_modelling_loss,
    multi_association_loss,
    reduce,
    similarity_distribution_matching_loss,
)

SMALL = settings(max_examples=40, deadline=None)
ALIGNMENTS = [
    multi_association_loss,
    hardest_triplet_loss,
    info_nce_loss,
    similarity_distribution_matching_loss,
]


@st.composite
def batches(draw, max_size=12):
    """Cosines of text and image with identities, from all different to all the same."""
    size = draw(st.integers(1, max_size))
    identities = draw(st.integers(1, size))
    labels = torch.tensor(draw(st.lists(st.integers(0, identities - 1), min_size=size, max_size=size)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    spread = draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
    similarity = (2 * torch.rand(size, size, generator=generator) - 1) * spread
    return similarity, labels


@st.composite
def feature_batches(draw, max_size=10):
    """Features of text and image with identities."""
    labels = draw(batches(max_size))[1]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    text, image = torch.randn(2, len(labels), 6, generator=generator)
    return text, image, labels


def slow_mal(similarity, labels, temperature, margin, beta):
    """The equation, pair by pair in Python's double precision."""
    scores, ids = similarity.double().tolist(), labels.tolist()
    total = 0.0
    for direction in (scores, [list(column) for column in zip(*scores, strict=True)]):
        for i, row in enumerate(direction):
            negatives = [value for j, value in enumerate(row) if ids[j] != ids[i]]
            positives = [value for j, value in enumerate(row) if ids[j] == ids[i]]
            if not negatives:
                continue
            weights = [math.exp(value / temperature) for value in positives]
            attracted = sum(w * value for w, value in zip(weights, positives, strict=True)) / sum(weights)
            repelled = beta * math.log(sum(math.exp(value / temperature) for value in negatives))
            total += max(0.0, margin - attracted + repelled)
    return total


@SMALL
@given(
    batch=batches(),
    temperature=st.sampled_from([0.015, 0.02, 0.1, 1.0]),
    margin=st.sampled_from([0.0, 0.1, 0.5]),
    mal_scale=st.sampled_from(["temperature", "batch"]),
)
def test_mal_is_the_equation(batch, temperature, margin, mal_scale):
    similarity, labels = batch
    beta = temperature if mal_scale == "temperature" else math.floor(1000 / len(labels)) / 1000
    expected = slow_mal(similarity, labels, temperature, margin, beta)
    loss = multi_association_loss(similarity, labels, temperature=temperature, margin=margin, mal_scale=mal_scale)
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_scales_of_mal_agree_at_the_published_batch_only():
    generator = torch.Generator().manual_seed(0)
    for size, agree in ((64, True), (32, False), (100, False)):
        similarity, labels = torch.rand(size, size, generator=generator), torch.arange(size) // 2
        own, published = (
            multi_association_loss(similarity, labels, mal_scale=scale).item() for scale in ("temperature", "batch")
        )
        assert (own == pytest.approx(published, rel=1e-6)) == agree


def test_mal_of_two_pairs_by_hand():
    similarity = torch.tensor([[0.5, 0.6], [0.1, 0.5]])
    # Texts 0.1 - 0.5 + {0.6, 0.1}, images 0.1 - 0.5 + {0.1, 0.6}, below 0 cut away.
    loss = multi_association_loss(similarity, torch.tensor([3, 9]))
    assert loss.item() == pytest.approx(0.2 + 0 + 0 + 0.2, abs=1e-6)


@SMALL
@given(batch=batches(max_size=8), mal_scale=st.sampled_from(["temperature", "batch"]))
def test_gradient_of_mal(batch, mal_scale):
    similarity, labels = batch
    similarity.requires_grad_()
    same = labels[:, None] == labels[None]
    if same.all():
        return
    # With a margin this wide, every row pays. The weights of positives carry no gradient themselves.
    loss = multi_association_loss(similarity, labels, temperature=0.1, margin=9.0, mal_scale=mal_scale)
    loss.backward()
    scores = similarity.detach().double() / 0.1
    beta = 0.1 if mal_scale == "temperature" else (1000 // len(labels)) / 1000
    expected = torch.zeros_like(scores)
    for dim in (0, 1):
        expected -= scores.masked_fill(~same, -math.inf).softmax(dim)
        expected += beta / 0.1 * scores.masked_fill(same, -math.inf).softmax(dim)
    torch.testing.assert_close(similarity.grad.double(), expected, atol=1e-4, rtol=1e-4)


@SMALL
@given(batch=batches(), loss=st.sampled_from(ALIGNMENTS), seed=st.integers(0, 100))
def test_order_of_the_batch_does_not_matter(batch, loss, seed):
    similarity, labels = batch
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shuffled = loss(similarity[order][:, order], labels[order])
    assert shuffled.item() == pytest.approx(loss(similarity, labels).item(), rel=1e-4, abs=1e-5)


@SMALL
@given(batch=batches(), loss=st.sampled_from(ALIGNMENTS))
def test_both_directions_count_alike(batch, loss):
    similarity, labels = batch
    assert loss(similarity.T, labels).item() == pytest.approx(loss(similarity, labels).item(), rel=1e-4, abs=1e-5)


@SMALL
@given(batch=batches(), loss=st.sampled_from(ALIGNMENTS[:3]))
def test_mean_times_batch_is_the_sum(batch, loss):
    similarity, labels = batch
    total, mean = (loss(similarity, labels, reduction=reduction).item() for reduction in ("sum", "mean"))
    assert mean * len(labels) == pytest.approx(total, rel=1e-5, abs=1e-6)


@SMALL
@given(batch=batches(), loss=st.sampled_from(ALIGNMENTS), names=st.permutations(range(12)))
def test_identities_are_only_names(batch, loss, names):
    similarity, labels = batch
    renamed = torch.tensor(names)[labels] * 1000 - 7
    assert loss(similarity, renamed).item() == loss(similarity, labels).item()


@SMALL
@given(
    batch=batches(),
    kind=st.sampled_from(list(ALIGNMENT_LOSSES)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    temperature=st.sampled_from([1e-6, 1e-3, 0.015, 1.0]),
    mal_scale=st.sampled_from(["temperature", "batch"]),
)
def test_finite_in_every_corner(batch, kind, dtype, temperature, mal_scale):
    # The gradient itself is about 1 / temperature, which float16 cannot hold at the smallest one.
    assume(dtype != torch.float16 or temperature > 1e-6)
    similarity, labels = batch
    options = LossSettings(
        alignment_loss=kind, temperature=temperature, mal_scale=mal_scale, logit_scale=1 / temperature
    )
    function, names, of_features = ALIGNMENT_LOSSES[kind]
    compared = [
        part.to(dtype).requires_grad_() for part in ((similarity, similarity.T) if of_features else (similarity,))
    ]
    # The gradient at a vector of zeros is beyond the range of float16, too.
    assume(not of_features or dtype != torch.float16)
    values = vars(options) | {"reduction": "sum"}
    loss = function(*compared, labels, **{name: values[name] for name in names})
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert all(part.grad.isfinite().all() for part in compared)
    assert loss >= -1e-5 or of_features


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("loss", [multi_association_loss, hardest_triplet_loss])
def test_no_negatives_cost_nothing(size, loss):
    similarity = torch.rand(size, size).requires_grad_()
    value = loss(similarity, torch.full((size,), 3), margin=2.5)
    value.backward()
    assert value.item() == 0
    assert not similarity.grad.any()


def test_perfect_cosines_cost_nothing_and_reversed_ones_much():
    labels = torch.arange(6)
    perfect = 2 * torch.eye(6) - 1
    for loss in ALIGNMENTS:
        assert loss(perfect, labels).item() == pytest.approx(0, abs=1e-4), loss
        assert loss(-perfect, labels).item() > 1, loss


@pytest.mark.parametrize("loss", ALIGNMENTS)
def test_shapes_that_do_not_fit_are_refused(loss):
    with pytest.raises(ValueError, match="similarity must be"):
        loss(torch.zeros(3, 4), torch.zeros(3))
    with pytest.raises(ValueError, match="similarity must be"):
        loss(torch.zeros(3, 3), torch.zeros(4))
    with pytest.raises(ValueError, match="similarity must be"):
        loss(torch.zeros(3), torch.zeros(3))


def test_triplet_by_hand():
    similarity = torch.tensor([[0.5, 0.45, 0.0], [-0.2, 0.5, 0.1], [0.3, 0.55, 0.5]])
    loss = hardest_triplet_loss(similarity, torch.tensor([0, 1, 2]))
    # Rows: hardest 0.45, 0.1, 0.55. Columns: hardest 0.3, 0.55, 0.1.
    assert loss.item() == pytest.approx(0.05 + 0 + 0.15 + 0 + 0.15 + 0, abs=1e-6)


def test_info_nce_is_cross_entropy_of_the_pairs():
    similarity = torch.rand(7, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(7)
    expected = (F.cross_entropy(50 * similarity, targets) + F.cross_entropy(50 * similarity.T, targets)) / 2
    ours = info_nce_loss(similarity, torch.zeros(7), reduction="mean")
    torch.testing.assert_close(ours, expected)


def test_sdm_vanishes_where_the_prediction_is_the_truth():
    labels = torch.tensor([0, 0, 1])
    similarity = (labels[:, None] == labels[None]).float()
    assert similarity_distribution_matching_loss(similarity, labels).item() == pytest.approx(0, abs=1e-4)
    assert similarity_distribution_matching_loss(1 - similarity, labels).item() > 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cmpm_is_finite(dtype):
    for labels in ([0], [0, 0, 0], [0, 1, 1]):
        text = torch.randn(len(labels), 8).to(dtype).requires_grad_()
        # The gradient at a vector of zeros is beyond the range of float16 alone.
        image = (1e-3 if dtype == torch.float16 else 0) * torch.randn(len(labels), 8)
        image = image.to(dtype).requires_grad_()
        loss = cross_modal_projection_matching_loss(text, image, torch.tensor(labels))
        loss.backward()
        assert loss.isfinite()
        assert text.grad.isfinite().all()
        assert image.grad.isfinite().all()


def test_cosines_are_float32_under_autocast():
    text, image = torch.randn(3, 16), torch.randn(4, 16)
    expected = F.cosine_similarity(text[:, None], image[None], dim=-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = cosine_similarity(text, image)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected)
    zero = torch.zeros(2, 16, requires_grad=True)
    cosine_similarity(zero, image).sum().backward()
    assert zero.grad.isfinite().all()


def test_identity_loss_is_the_mean_of_both_modalities():
    labels = torch.tensor([2, 0])
    image, text = torch.randn(2, 3), torch.randn(2, 3)
    expected = (F.cross_entropy(image, labels) + F.cross_entropy(text, labels)) / 2
    torch.testing.assert_close(identity_loss(image, text, labels), expected)
    assert identity_loss(image.half() * 1000, text.half(), labels).isfinite()


def test_mlm_loss_without_targets_is_zero_with_a_gradient():
    labels = torch.full((2, 5), -100)
    weight = torch.randn(4, 9, requires_grad=True)
    loss = masked_language_modelling_loss(torch.randn(0, 4) @ weight, labels)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(weight.grad, torch.zeros(4, 9))


def test_mlm_loss_reads_targets_in_row_major_order():
    labels = torch.tensor([[-100, 3, -100], [1, -100, 2]])
    logits = torch.full((3, 5), -20.0)
    logits[0, 3] = logits[1, 1] = logits[2, 2] = 20.0
    assert masked_language_modelling_loss(logits, labels).item() == pytest.approx(0, abs=1e-6)
    assert masked_language_modelling_loss(logits.flip(0), labels).item() > 10


# Terms and settings


def features(batch=4):
    """Inputs of `loss_terms` that need gradients."""
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape):
        return torch.randn(*shape, generator=generator).requires_grad_()

    mlm_labels = torch.full((batch, 6), -100)
    mlm_labels[:, 2] = 1
    return {
        "global_features": (leaf(batch, 8), leaf(batch, 8)),
        "local_features": (leaf(batch, 5), leaf(batch, 5)),
        "identity_logits": (leaf(batch, 3), leaf(batch, 3)),
        "mlm_logits": leaf(batch, 9),
        "mlm_labels": mlm_labels,
    }


LABELS = torch.tensor([0, 1, 1, 2])


@pytest.mark.parametrize("kind", ALIGNMENT_LOSSES)
def test_terms_by_name_and_weight(kind):
    inputs = features()
    plain = loss_terms(
        LossSettings(alignment_loss=kind, alignment_weight=1, identity_weight=1, mlm_weight=1), LABELS, **inputs
    )
    weighted = loss_terms(
        LossSettings(alignment_loss=kind, alignment_weight=0.5, identity_weight=2, mlm_weight=3), LABELS, **inputs
    )
    assert list(plain) == ["alignment_global", "alignment_local", "identity", "mlm"]
    for name, weight in (("alignment_global", 0.5), ("alignment_local", 0.5), ("identity", 2), ("mlm", 3)):
        assert weighted[name].dtype == torch.float32
        assert weighted[name].shape == ()
        torch.testing.assert_close(weighted[name], weight * plain[name])
    function, names, of_features = ALIGNMENT_LOSSES[kind]
    features_of_both = inputs["global_features"]
    compared = features_of_both if of_features else (cosine_similarity(*features_of_both),)
    torch.testing.assert_close(plain["alignment_global"], function(*compared, LABELS))
    assert set(names) <= {"temperature", "margin", "mal_scale", "reduction", "logit_scale"}


def test_settings_reach_the_loss():
    text, image = torch.randn(2, 10, 4, generator=torch.Generator().manual_seed(0))
    similarity, labels = cosine_similarity(text, image), torch.arange(10) // 2
    options = LossSettings(temperature=0.1, margin=0.3, mal_scale="batch", alignment_reduction="mean")
    expected = multi_association_loss(
        similarity, labels, temperature=0.1, margin=0.3, mal_scale="batch", reduction="mean"
    )
    assert torch.equal(options.alignment(text, image, labels), expected)
    options = LossSettings(alignment_loss="sdm", logit_scale=7.0)
    expected = similarity_distribution_matching_loss(similarity, labels, logit_scale=7.0)
    assert torch.equal(options.alignment(text, image, labels), expected)
    expected = cross_modal_projection_matching_loss(text, image, labels)
    assert torch.equal(LossSettings(alignment_loss="cmpm").alignment(text, image, labels), expected)


# Costs and weights of pairs


@SMALL
@given(
    batch=feature_batches(), kind=st.sampled_from(list(ALIGNMENT_LOSSES)), reduction=st.sampled_from(["sum", "mean"])
)
def test_the_costs_of_pairs_make_the_loss(batch, kind, reduction):
    *_, labels = batch
    options = LossSettings(alignment_loss=kind, alignment_reduction=reduction, temperature=0.1)
    costs = options.alignment(*batch, reduction="none")
    assert costs.shape == labels.shape
    assert (costs >= -1e-5).all() or ALIGNMENT_LOSSES[kind].of_features
    summed = reduction == "sum" and "reduction" in ALIGNMENT_LOSSES[kind].settings
    expected = costs.sum() if summed else costs.mean()
    torch.testing.assert_close(options.alignment(*batch), expected)


@SMALL
@given(
    batch=feature_batches(), kind=st.sampled_from(list(ALIGNMENT_LOSSES)), reduction=st.sampled_from(["sum", "mean"])
)
def test_weights_of_one_change_nothing(batch, kind, reduction):
    *_, labels = batch
    options = LossSettings(alignment_loss=kind, alignment_reduction=reduction)
    ones = torch.ones(len(labels))
    torch.testing.assert_close(options.alignment(*batch, weights=ones), options.alignment(*batch))


@SMALL
@given(
    batch=feature_batches(),
    kind=st.sampled_from(list(ALIGNMENT_LOSSES)),
    reduction=st.sampled_from(["sum", "mean"]),
    chosen=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=10, max_size=10),
)
def test_weights_multiply_the_costs(batch, kind, reduction, chosen):
    *_, labels = batch
    options = LossSettings(alignment_loss=kind, alignment_reduction=reduction, temperature=0.1)
    weights = torch.tensor(chosen[: len(labels)])
    expected = (options.alignment(*batch, reduction="none") * weights).sum()
    if reduction == "mean" or "reduction" not in ALIGNMENT_LOSSES[kind].settings:
        expected = expected / (weights.sum() if weights.any() else 1)
    torch.testing.assert_close(options.alignment(*batch, weights=weights), expected)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("kind", ALIGNMENT_LOSSES)
def test_a_batch_without_a_pair_that_counts_costs_nothing(kind, reduction):
    text, image = (leaf.requires_grad_() for leaf in torch.randn(2, 4, 6))
    options = LossSettings(alignment_loss=kind, alignment_reduction=reduction)
    loss = options.alignment(text, image, LABELS, weights=torch.zeros(4))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(text.grad, torch.zeros(4, 6))
    assert torch.equal(image.grad, torch.zeros(4, 6))


@pytest.mark.parametrize("kind", ALIGNMENT_LOSSES)
def test_a_pair_that_does_not_count_is_still_a_negative(kind):
    text, image = (leaf.requires_grad_() for leaf in torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0)))
    options = LossSettings(alignment_loss=kind, temperature=0.1, margin=2.0)
    options.alignment(text, image, torch.arange(3), weights=torch.tensor([1.0, 1.0, 0.0])).backward()
    assert text.grad[2].any()
    assert image.grad[2].any()


def test_terms_take_weights_of_pairs():
    inputs = {name: features()[name] for name in ("global_features", "local_features")}
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0])
    options = LossSettings(alignment_weight=0.5)
    terms = alignment_terms(options, LABELS, *inputs.values(), weights=weights)
    for term, both in zip(terms.values(), inputs.values(), strict=True):
        costs = options.alignment(*both, LABELS, reduction="none")
        torch.testing.assert_close(term, 0.5 * (costs[0] + costs[2] + costs[3]))


def test_weights_reduce_by_hand():
    costs, weights = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 0.0, 3.0])
    assert reduce(costs, "sum", weights).item() == 13
    assert reduce(costs, "mean", weights).item() == 13 / 4
    assert reduce(costs, "none", weights).tolist() == [1, 0, 12]
    assert reduce(costs, "mean", torch.zeros(3)).item() == 0


def test_a_loss_without_costs_of_pairs_is_known():
    assert all(loss.is_pairwise for loss in ALIGNMENT_LOSSES.values())
    assert not AlignmentLoss(lambda similarity, labels: similarity.mean(), ()).is_pairwise


def test_a_weight_of_zero_keeps_every_gradient_defined():
    inputs = features()
    terms = loss_terms(LossSettings(alignment_weight=0, identity_weight=0, mlm_weight=0), LABELS, **inputs)
    assert [value.item() for value in terms.values()] == [0, 0, 0, 0]
    sum(terms.values()).backward()
    for given_input in ("global_features", "local_features", "identity_logits"):
        for leaf in inputs[given_input]:
            assert torch.equal(leaf.grad, torch.zeros_like(leaf))
    assert torch.equal(inputs["mlm_logits"].grad, torch.zeros(4, 9))


def test_parts_that_are_switched_off_have_no_term():
    assert list(loss_terms(LossSettings(), LABELS, global_features=features()["global_features"])) == [
        "alignment_global"
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"alignment_loss": "contrastive"},
        {"alignment_weight": -1.0},
        {"identity_weight": -0.1},
        {"mlm_weight": math.nan},
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"margin": -0.1},
        {"mlm_weight": math.inf},
        {"logit_scale": 0.0},
        {"mal_scale": "size"},
        {"alignment_reduction": "max"},
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LossSettings(**wrong).check_losses()
