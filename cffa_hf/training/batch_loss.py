"""The loss of a batch that is spread over processes, and perhaps over chunks: the same as that of one whole batch."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cffa_hf.loss_terms import alignment_terms, prediction_terms
from cffa_hf.losses import LossSettings
from cffa_hf.modeling_cffa import CFFAOutput
from cffa_hf.training.distributed import BatchCounts, gather_labels, gather_rows

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class BatchLoss:
    """Named, weighted terms whose mean over the processes is that of one process with the whole batch.

    Args:
        settings: Kinds, weights and constants.
        labels: Identities of this process's pairs, `(batch,)`.
        counts: How the batch is spread.
    """

    settings: LossSettings
    labels: Tensor
    counts: BatchCounts

    @classmethod
    def of(cls, settings: LossSettings, inputs: dict[str, Any]) -> "BatchLoss":
        """Count a batch; every process calls this with its share, as TrainingTransform returns it."""
        labels = inputs["person_labels"]
        return cls(settings, labels, BatchCounts.of(labels, inputs.get("mlm_labels")))

    def alignment(self, global_features: Pair, local_features: Pair | None) -> dict[str, Tensor]:
        """Compare the pairs of all processes; every process gets the same terms.

        Args:
            global_features: Of this process's texts and images, each `(batch, D)`.
            local_features: Likewise, each `(batch, F)`; None without FLFR.
        """
        sizes = self.counts.sizes
        text, image, *local = gather_rows([*global_features, *(local_features or ())], sizes)
        labels = gather_labels(self.labels, sizes)
        return alignment_terms(self.settings, labels, (text, image), (local[0], local[1]) if local else None)

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
