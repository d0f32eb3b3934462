"""The terms of the training loss: `losses.py`, named, weighted, and ready to be summed."""

from torch import Tensor

from cffa_hf.losses import LossSettings, identity_loss, masked_language_modelling_loss


def alignment_terms(
    settings: LossSettings,
    labels: Tensor,
    global_features: tuple[Tensor, Tensor],
    local_features: tuple[Tensor, Tensor] | None = None,
    weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the weighted terms that compare all pairs of a batch: `alignment_global`, `alignment_local`.

    Args:
        settings: Kinds, weights and constants.
        labels: Identities, `(batch,)`; with several processes those of all.
        global_features: Of texts and images, each `(batch, D)`.
        local_features: Of texts and images, each `(batch, F)`; None without FLFR.
        weights: How much each pair counts, `(batch,)`; None: all alike.
    """
    changes = {} if weights is None else {"weights": weights}
    features = {"alignment_global": global_features}
    if local_features is not None:
        features["alignment_local"] = local_features
    return {
        name: settings.alignment_weight * settings.alignment(text, image, labels, **changes)
        for name, (text, image) in features.items()
    }


def prediction_terms(
    settings: LossSettings,
    labels: Tensor,
    *,
    identity_logits: tuple[Tensor, Tensor] | None = None,
    mlm_logits: Tensor | None = None,
    mlm_labels: Tensor | None = None,
    pair_count: float | Tensor | None = None,
    masked_count: float | Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the weighted terms that are means over pairs and over masked tokens: `identity`, `mlm`.

    Over the parts of a batch they add up to the term of the whole, if the counts are those of the whole.

    Args:
        settings: Weights.
        labels: Identities, `(batch,)`.
        identity_logits: Of texts and images, each `(batch, C)`; None without identity classifier.
        mlm_logits: `(masked, vocabulary)`; None without masked language modelling.
        mlm_labels: `(batch, length)`, -100 where nothing is predicted.
        pair_count: Pairs that the identity loss is a mean of; None: those here.
        masked_count: Masked tokens that the MLM loss is a mean of; None: those here.
    """
    terms = {}
    if identity_logits is not None:
        text, image = identity_logits
        terms["identity"] = settings.identity_weight * identity_loss(image, text, labels, count=pair_count)
    if mlm_logits is not None and mlm_labels is not None:
        loss = masked_language_modelling_loss(mlm_logits, mlm_labels, count=masked_count)
        terms["mlm"] = settings.mlm_weight * loss
    return terms


def loss_terms(
    settings: LossSettings,
    labels: Tensor,
    *,
    global_features: tuple[Tensor, Tensor],
    local_features: tuple[Tensor, Tensor] | None = None,
    identity_logits: tuple[Tensor, Tensor] | None = None,
    mlm_logits: Tensor | None = None,
    mlm_labels: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the named, weighted terms whose sum is trained, float32 scalars.

    Args:
        settings: Kinds, weights and constants.
        labels: Identities, `(batch,)`.
        global_features: Of texts and images, each `(batch, D)`.
        local_features: Of texts and images, each `(batch, F)`; None without FLFR.
        identity_logits: Of texts and images, each `(batch, C)`; None without identity classifier.
        mlm_logits: `(masked, vocabulary)`; None without masked language modelling.
        mlm_labels: `(batch, length)`, -100 where nothing is predicted.

    Returns:
        Some of `alignment_global`, `alignment_local`, `identity` and `mlm`. A weight of 0 keeps its term, times 0, so that
        every parameter has a gradient in distributed training.

    Example:
        >>> import torch
        >>> text, image = torch.tensor([[1.0, 0.0], [0.9, 0.1]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> terms = loss_terms(LossSettings(), torch.tensor([4, 7]), global_features=(text, image))
        >>> {name: round(term.item(), 2) for name, term in terms.items()}
        {'alignment_global': 1.08}
    """
    return alignment_terms(settings, labels, global_features, local_features) | prediction_terms(
        settings, labels, identity_logits=identity_logits, mlm_logits=mlm_logits, mlm_labels=mlm_labels
    )
