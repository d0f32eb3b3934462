"""The loss of a batch that is spread over processes, and perhaps over chunks: the same as that of one whole batch."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cffa_hf.loss_terms import alignment_terms, prediction_terms
from cffa_hf.losses import LossSettings
from cffa_hf.modeling_cffa import CFFAOutput
from cffa_hf.training.distributed import BatchCounts, gather_labels, gather_rows

Pair = tuple[Tensor, Tensor]
# What of a batch the loss alone takes.
OF_THE_LOSS = ("person_labels", "pair_weights")


def of_the_model(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return what of a batch the training model takes."""
    return {name: value for name, value in inputs.items() if name not in OF_THE_LOSS}


@dataclass(frozen=True)
class BatchLoss:
    """Named, weighted terms whose mean over the processes is that of one process with the whole batch.

    Args:
        settings: Kinds, weights and constants.
        labels: Identities of this process's pairs, `(batch,)`.
        counts: How the batch is spread.
        weights: How much the alignment of each of this process's pairs counts, `(batch,)`; None: all alike.
    """

    settings: LossSettings
    labels: Tensor
    counts: BatchCounts
    weights: Tensor | None = None

    @classmethod
    def of(cls, settings: LossSettings, inputs: dict[str, Any]) -> "BatchLoss":
        """Count a batch; every process calls this with its share, as TrainingTransform returns it."""
        labels = inputs["person_labels"]
        counts = BatchCounts.of(labels, inputs.get("mlm_labels"))
        return cls(settings, labels, counts, inputs.get("pair_weights"))

    def alignment(self, global_features: Pair, local_features: Pair | None) -> dict[str, Tensor]:
        """Compare the pairs of all processes; every process gets the same terms.

        Args:
            global_features: Of this process's texts and images, each `(batch, D)`.
            local_features: Likewise, each `(batch, F)`; None without FLFR.
        """
        sizes = self.counts.sizes
        text, image, *local = gather_rows([*global_features, *(local_features or ())], sizes)
        labels = gather_labels(self.labels, sizes)
        weights = None if self.weights is None else gather_labels(self.weights, sizes)
        features = (text, image), (local[0], local[1]) if local else None
        return alignment_terms(self.settings, labels, *features, weights=weights)

    def predictions(self, output: CFFAOutput, labels: Tensor, mlm_labels: Tensor | None) -> dict[str, Tensor]:
        """Compute the share that some pairs of this process have in identity loss and masked language modelling.

        Args:
            output: Of the training model for these pairs.
            labels: Their identities.
            mlm_labels: Their MLM labels; None without MLM.
        """
        text, image = output.text_identity_logits, output.image_identity_logits
        return prediction_terms(
            self.settings,
            labels,
            identity_logits=None if text is None or image is None else (text, image),
            mlm_logits=output.mlm_logits,
            mlm_labels=mlm_labels,
            pair_count=self.counts.pairs,
            masked_count=self.counts.masked,
        )
