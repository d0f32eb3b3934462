"""Losses of text-based person retrieval: pure functions of similarities and labels, always computed in float32.

Every alignment loss takes `similarity`, the cosine of text i and image j, `(texts, images)`, in [-1, 1], and `labels`, the
identities of texts and images. Texts and images come as pairs, so both sides have the same labels and `similarity` is square.
CMPM alone compares features instead. All are finite, with finite gradients, for any batch: one sample, one identity only,
half-precision input. The cost of pair i is that of row i in both directions; with `weights`, `(batch,)`, it counts as often
as they say, and a pair of weight 0 still is a negative of the others.

Which loss when:

- **MAL** (`multi_association_loss`) is CFFA's and the default: every negative of the batch counts by how near it is, and a
  pair that is far enough apart costs nothing.
- **Hardest triplet** looks at the nearest negative alone, which may be a person whom the caption fits as well.
- **InfoNCE** is CLIP's own. It knows one image for a caption, so other images of the same person in the batch count as
  negatives: take it where an identity is a single image, as in pre-training sets.
- **SDM** (IRRA) spreads the target over all images of the identity: take it where a batch holds several pairs of a person.
- **CMPM** is SDM's ancestor on features that are not normalised, whose lengths it learns too; it is here to compare with.
- Identity and masked-language-modelling losses stand beside one of these, never alone: the first needs identities with
  several images, the second only captions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def same_identity(similarity: Tensor, labels: Tensor) -> Tensor:
    """Mark the pairs of one identity, `(texts, images)`, bool.

    Raises:
        ValueError: If `similarity` is not square or `labels` do not fit it.

    Example:
        >>> same_identity(torch.zeros(2, 2), torch.tensor([4, 7]))
        tensor([[ True, False],
                [False,  True]])
    """
    if similarity.dim() != 2 or similarity.shape[0] != similarity.shape[1] or labels.shape != similarity.shape[:1]:
        raise ValueError(
            f"similarity must be (batch, batch) with labels (batch,), got {tuple(similarity.shape)} and {tuple(labels.shape)}"
        )
    return labels[:, None] == labels[None, :]


def reduce(costs: Tensor, reduction: str, weights: Tensor | None = None) -> Tensor:
    """Sum or average the costs of pairs, or leave them as they are.

    Args:
        costs: `(batch,)`.
        reduction: `sum`, `mean` or `none`.
        weights: How much each pair counts, from 0, `(batch,)`; None: all alike. A mean is divided by their sum, and is 0 if
            no pair counts.

    Example:
        >>> reduce(torch.tensor([3.0, 5.0, 9.0]), "mean", torch.tensor([1.0, 1.0, 0.0]))
        tensor(4.)
    """
    if weights is not None:
        costs = costs * weights
        if reduction == "mean":
            total = weights.sum()
            return costs.sum() / torch.where(total > 0, total, 1.0)
    if reduction == "none":
        return costs
    return costs.sum() if reduction == "sum" else costs.mean()


def positive_similarity(similarity: Tensor, positives: Tensor, temperature: float) -> Tensor:
    """Average each row's positives, weighted by their detached softmax, `(rows,)`."""
    with torch.no_grad():
        weights = (similarity / temperature).masked_fill(~positives, float("-inf")).softmax(dim=1)
    return (weights * similarity).sum(dim=1)


def association_rows(similarity: Tensor, positives: Tensor, temperature: float, margin: float, scale: float) -> Tensor:
    """Cost of each row for one direction of MAL, `(rows,)`; 0 where a row has no negatives."""
    has_negatives = (~positives).any(dim=1)
    # A row without negatives would be log(0): give it something finite and take its cost away afterwards.
    hidden = positives & has_negatives[:, None]
    negatives = (similarity / temperature).masked_fill(hidden, float("-inf")).logsumexp(dim=1)
    cost = F.relu(margin - positive_similarity(similarity, positives, temperature) + scale * negatives)
    return torch.where(has_negatives, cost, 0.0)


def multi_association_loss(
    similarity: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.015,
    margin: float = 0.1,
    mal_scale: str = "temperature",
    reduction: str = "sum",
    weights: Tensor | None = None,
) -> Tensor:
    """Multi-association learning (MAL) in both directions.

    Per row: `relu(margin - sum_j a_ij S_ij + beta * log sum_{j negative} exp(S_ij / temperature))`, a the detached softmax of
    S / temperature over the row's positives. With `mal_scale="temperature"`, beta is the temperature and MAL is the
    triplet-alignment bound (TAL of RDE); `"batch"` is the published floor(1000 / batch) / 1000.

    Args:
        similarity: Cosines, `(batch, batch)`.
        labels: Identities, `(batch,)`.
        temperature: Sharpness of the softmax, above 0.
        margin: Wanted distance of positives and negatives, in units of cosine.
        mal_scale: What beta is.
        reduction: Sum (published) or mean over the pairs, or `none`: `(batch,)`; both directions are added.
        weights: As in `reduce`.

    Example:
        >>> similarity = torch.tensor([[0.50, 0.45], [0.30, 0.60]])
        >>> multi_association_loss(similarity, torch.tensor([4, 7]))  # text 0 is nearer to image 1 than the margin allows
        tensor(0.0500)
    """
    positives = same_identity(similarity, labels)
    similarity = similarity.float()
    scale = temperature if mal_scale == "temperature" else (1000 // len(labels)) / 1000
    rows = association_rows(similarity, positives, temperature, margin, scale)
    columns = association_rows(similarity.T, positives.T, temperature, margin, scale)
    return reduce(rows + columns, reduction, weights)


def hardest_triplet_loss(
    similarity: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.015,
    margin: float = 0.1,
    reduction: str = "sum",
    weights: Tensor | None = None,
) -> Tensor:
    """Triplet ranking loss with each row's hardest negative, both directions added (TRL as in RDE).

    Arguments as in `multi_association_loss`.

    Example:
        >>> similarity = torch.tensor([[0.50, 0.45], [0.30, 0.60]])
        >>> hardest_triplet_loss(similarity, torch.tensor([4, 7]))
        tensor(0.0500)
    """
    positives = same_identity(similarity, labels)
    similarity = similarity.float()
    cost = similarity.new_zeros(len(labels))
    for scores in (similarity, similarity.T):
        # The mask is symmetric. A row without negatives gets the lowest cosine, which costs nothing unless margin > 2.
        hardest = scores.masked_fill(positives, 0.0 if positives.all() else -1.0).amax(dim=1)
        row = F.relu(margin + hardest - positive_similarity(scores, positives, temperature))
        cost = cost + torch.where(positives.all(dim=1), 0.0, row)
    return reduce(cost, reduction, weights)


def info_nce_loss(
    similarity: Tensor,
    labels: Tensor,
    *,
    logit_scale: float = 50.0,
    reduction: str = "sum",
    weights: Tensor | None = None,
) -> Tensor:
    """InfoNCE with the diagonal as the only positive, mean of both directions.

    Args:
        similarity: Cosines, `(batch, batch)`.
        labels: Identities, `(batch,)`; they only fix the shape here.
        logit_scale: Inverse temperature.
        reduction: Sum or mean over the pairs, or `none`: `(batch,)`.
        weights: As in `reduce`.

    Example:
        >>> similarity = torch.tensor([[0.50, 0.45], [0.30, 0.60]])
        >>> info_nce_loss(similarity, torch.tensor([4, 7]), reduction="mean")
        tensor(0.0199)
    """
    same_identity(similarity, labels)
    logits = logit_scale * similarity.float()
    rows = -(logits.log_softmax(dim=1).diagonal() + logits.log_softmax(dim=0).diagonal()) / 2
    return reduce(rows, reduction, weights)


def similarity_distribution_matching_loss(
    similarity: Tensor,
    labels: Tensor,
    *,
    logit_scale: float = 50.0,
    epsilon: float = 1e-8,
    reduction: str = "mean",
    weights: Tensor | None = None,
) -> Tensor:
    """SDM of IRRA: KL divergence from the predicted to the true matching distribution, both directions added, batch mean.

    Args:
        similarity: Cosines, `(batch, batch)`.
        labels: Identities, `(batch,)`.
        logit_scale: Inverse temperature.
        epsilon: Added to the true distribution before its logarithm.
        reduction: Mean (published) or sum over the pairs, or `none`: `(batch,)`.
        weights: As in `reduce`.

    Example:
        >>> similarity = torch.tensor([[0.50, 0.45], [0.30, 0.60]])
        >>> similarity_distribution_matching_loss(similarity, torch.tensor([4, 7]))
        tensor(0.5673)
    """
    truth = same_identity(similarity, labels).float()
    truth = (truth / truth.sum(dim=1, keepdim=True) + epsilon).log()
    logits = logit_scale * similarity.float()
    return sum_of_divergences(logits, logits.T, truth, reduction, weights)


def cross_modal_projection_matching_loss(
    text: Tensor,
    image: Tensor,
    labels: Tensor,
    *,
    epsilon: float = 1e-8,
    reduction: str = "mean",
    weights: Tensor | None = None,
) -> Tensor:
    """CMPM: match projections of one modality's features on the other's directions, both directions added, batch mean.

    Args:
        text: Features, not normalised, `(batch, width)`.
        image: Features, not normalised, `(batch, width)`.
        labels: Identities, `(batch,)`.
        epsilon: Added to the true distribution before its logarithm.
        reduction: Mean (published) or sum over the pairs, or `none`: `(batch,)`.
        weights: As in `reduce`.

    Source: Zhang and Lu, Deep Cross-Modal Projection Learning for Image-Text Matching, ECCV 2018; the true distribution is
    divided by its Euclidean norm, as in the published codes: with several pairs of an identity the cost may fall below 0.

    Example:
        >>> text, image = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[2.0, 1.0], [0.0, 1.0]])
        >>> cross_modal_projection_matching_loss(text, image, torch.tensor([4, 7]))
        tensor(8.7537)
    """
    with torch.autocast(text.device.type, enabled=False):
        text, image = text.float(), image.float()
        image_on_text = image @ F.normalize(text, dim=-1).T
        text_on_image = text @ F.normalize(image, dim=-1).T
    truth = same_identity(image_on_text, labels).float()
    truth = (truth / truth.norm(dim=1, keepdim=True) + epsilon).log()
    return sum_of_divergences(image_on_text, text_on_image, truth, reduction, weights)


def sum_of_divergences(
    logits: Tensor, other_logits: Tensor, log_truth: Tensor, reduction: str, weights: Tensor | None
) -> Tensor:
    """Add the KL divergences of two predictions, `(batch, batch)` logits each, from one symmetric truth."""
    total = logits.new_zeros(())
    for direction in (logits, other_logits):
        prediction = direction.log_softmax(dim=1)
        total = total + reduce((prediction.exp() * (prediction - log_truth)).sum(dim=1), reduction, weights)
    return total


def identity_loss(
    image_logits: Tensor, text_logits: Tensor, labels: Tensor, *, count: float | Tensor | None = None
) -> Tensor:
    """Cross entropy of the shared identity classifier, mean of both modalities.

    Args:
        image_logits: `(batch, identities)`.
        text_logits: `(batch, identities)`.
        labels: Contiguous classes of the train split, `(batch,)`.
        count: What the sum over the batch is divided by; None: its size. It differs for a part of a batch.

    Example:
        >>> identity_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor(0.4100)
    """
    loss = F.cross_entropy(image_logits.float(), labels, reduction="sum")
    loss = loss + F.cross_entropy(text_logits.float(), labels, reduction="sum")
    return loss / (2 * (len(labels) if count is None else count))


def masked_language_modelling_loss(
    logits: Tensor, mlm_labels: Tensor, *, count: float | Tensor | None = None
) -> Tensor:
    """Cross entropy at the masked positions; 0, with a zero gradient, if there are none.

    Args:
        logits: Scores at the masked positions in row-major order, `(masked, vocabulary)`.
        mlm_labels: Ids where a token was chosen, -100 elsewhere, `(batch, length)`.
        count: What the sum over the positions is divided by; None: their number. It differs for a part of a batch.

    Example:
        >>> masked_language_modelling_loss(torch.tensor([[0.0, 2.0, 0.0]]), torch.tensor([[-100, 1, -100]]))
        tensor(0.2395)
    """
    targets = mlm_labels[mlm_labels != -100]
    count = max(1, len(targets)) if count is None else count
    return F.cross_entropy(logits.float(), targets, reduction="sum") / count


def cosine_similarity(text: Tensor, image: Tensor) -> Tensor:
    """Compare all texts with all images, `(texts, images)`, float32 even under autocast.

    Args:
        text: Features, `(texts, width)`.
        image: Features, `(images, width)`.

    Example:
        >>> cosine_similarity(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        tensor([[0.6000, 0.0000]])
    """
    with torch.autocast(text.device.type, enabled=False):
        return F.normalize(text.float(), dim=-1) @ F.normalize(image.float(), dim=-1).T


class AlignmentLoss(NamedTuple):
    """A loss that compares all pairs of a batch.

    Attributes:
        function: Takes the cosines, or else the features, and the labels.
        settings: Those of `LossSettings` that it reads; `reduction` is `alignment_reduction`.
        of_features: Whether it takes the features of texts and images, not normalised, in the place of their cosines.
    """

    function: Callable[..., Tensor]
    settings: tuple[str, ...]
    of_features: bool = False

    @property
    def is_pairwise(self) -> bool:
        """Tell whether it is made of a cost for each pair, and so takes weights."""
        return {"reduction", "weights"} <= signature(self.function).parameters.keys()


# By the name that training arguments use.
ALIGNMENT_LOSSES: dict[str, AlignmentLoss] = {
    "mal": AlignmentLoss(multi_association_loss, ("temperature", "margin", "mal_scale", "reduction")),
    "triplet": AlignmentLoss(hardest_triplet_loss, ("temperature", "margin", "reduction")),
    "info_nce": AlignmentLoss(info_nce_loss, ("logit_scale", "reduction")),
    "sdm": AlignmentLoss(similarity_distribution_matching_loss, ("logit_scale",)),
    "cmpm": AlignmentLoss(cross_modal_projection_matching_loss, (), of_features=True),
}


@dataclass
class LossSettings:
    """What changes only the gradient: kind, weights and constants of the terms."""

    alignment_loss: str = field(
        default="mal", metadata={"help": "mal, triplet, info_nce, sdm or cmpm", "choices": list(ALIGNMENT_LOSSES)}
    )
    alignment_weight: float = field(default=1.0, metadata={"help": "Weight of the global and the local alignment loss"})
    identity_weight: float = field(default=1.0, metadata={"help": "Weight of the identity loss"})
    mlm_weight: float = field(default=1.4, metadata={"help": "Weight of masked language modelling"})
    temperature: float = field(default=0.015, metadata={"help": "Temperature of MAL and of the triplet loss"})
    margin: float = field(default=0.1, metadata={"help": "Margin of MAL and of the triplet loss, in units of cosine"})
    mal_scale: str = field(
        default="temperature",
        metadata={
            "help": "What multiplies MAL's log-sum-exp: the temperature, or the published function of the batch size",
            "choices": ["temperature", "batch"],
        },
    )
    alignment_reduction: str = field(
        default="sum", metadata={"help": "Sum (published) or mean over the batch", "choices": ["sum", "mean"]}
    )
    logit_scale: float = field(default=50.0, metadata={"help": "Inverse temperature of SDM and InfoNCE"})

    def check_losses(self) -> None:
        """Refuse settings outside their range.

        Raises:
            ValueError: Naming the setting and what it may be.
        """
        if self.alignment_loss not in ALIGNMENT_LOSSES:
            raise ValueError(
                f"alignment_loss must be one of {', '.join(ALIGNMENT_LOSSES)}, got {self.alignment_loss!r}"
            )
        for name in ("alignment_weight", "identity_weight", "mlm_weight", "margin"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number from 0, got {getattr(self, name)}")
        for name in ("temperature", "logit_scale"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number above 0, got {getattr(self, name)}")
        if self.mal_scale not in ("temperature", "batch"):
            raise ValueError(f"mal_scale must be temperature or batch, got {self.mal_scale!r}")
        if self.alignment_reduction not in ("sum", "mean"):
            raise ValueError(f"alignment_reduction must be sum or mean, got {self.alignment_reduction!r}")

    def alignment(self, text: Tensor, image: Tensor, labels: Tensor, **changes: Any) -> Tensor:
        """Compute the chosen alignment loss of a batch, not weighted.

        Args:
            text: Features, not normalised, `(batch, width)`.
            image: Features, not normalised, `(batch, width)`.
            labels: Identities, `(batch,)`.
            **changes: Other arguments of a pairwise loss: `weights` of the pairs, `reduction="none"` for their costs.
        """
        loss = ALIGNMENT_LOSSES[self.alignment_loss]
        compared = (text, image) if loss.of_features else (cosine_similarity(text, image),)
        values = {"reduction": self.alignment_reduction, **vars(self)}
        return loss.function(*compared, labels, **{name: values[name] for name in loss.settings} | changes)
