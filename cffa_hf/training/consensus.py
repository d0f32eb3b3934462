"""Which pairs count: confident consensus division of training pairs, some of which may be of different people.

Before each epoch every pair is weighed by the alignment loss, once on global and once on local features. A mixture of two
Gaussians divides each list of costs; where both call a pair clean it counts, where both call it noisy it does not, and where
they disagree a coin decides for this epoch.

Source: Qin et al., Noisy-Correspondence Learning for Text-to-Image Person Re-identification (RDE), CVPR 2024. The pairs are
weighed as they are in the data, without augmentation and masking: the same weights decide the same, however often asked.
"""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPProcessor, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cffa_hf.arguments.training import CFFATrainingArguments
from cffa_hf.data.pairs import PairDataset
from cffa_hf.data.sampler import ShuffleSampler
from cffa_hf.errors import InputError
from cffa_hf.evaluation.evaluator import encode_batches
from cffa_hf.files import write_tensors
from cffa_hf.inference.embedder import Embedder
from cffa_hf.losses import LossSettings
from cffa_hf.modeling_cffa import CFFAForPreTraining, Encoding
from cffa_hf.training.lora import training_model
from cffa_hf.training.resume_checks import CannotResume

PAIR_WEIGHTS = "pair_weights.safetensors"
MIXTURE = {"max_iter": 10, "tol": 1e-2, "reg_covar": 5e-4}
MUCH_NOISE = {"max_iter": 100, "tol": 1e-4, "reg_covar": 1e-6}
# Beside seed and epoch, so that coins and the sampler's order have nothing in common.
COINS = 1


class SideBySide(nn.Module):
    """A training model whose embeddings are the global and the local features side by side, not normalised.

    Args:
        model: Shared, not copied.
    """

    def __init__(self, model: CFFAForPreTraining):
        super().__init__()
        self.model, self.training = model, model.training

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Encode normalised images `(B, 3, height, width)`, `(B, D + F)`, float32."""
        return side_by_side(self.model.cffa.encode_images(pixel_values))

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encode captions `(B, L)`, `(B, D + F)`, float32."""
        return side_by_side(self.model.cffa.encode_captions(input_ids, attention_mask))


def side_by_side(encoding: Encoding) -> Tensor:
    """Join global and local features, `(B, D + F)`, float32, not normalised."""
    return torch.cat([part.float() for part in (encoding.pooled, encoding.local) if part is not None], dim=1)


def batches_like_training(order: np.ndarray, batch_size: int) -> list[tuple[np.ndarray, int]]:
    """Cut an order of pairs into batches of one size; the last one is filled up with pairs that stand before it.

    Args:
        order: Numbers of the pairs, `(pairs,)`.
        batch_size: Pairs in the batch of all processes; with fewer pairs than that there is one batch of all.

    Returns:
        Each batch, and how many of its first pairs only fill it up.
    """
    starts = range(0, len(order), batch_size)
    begins = [max(0, min(start, len(order) - batch_size)) for start in starts]
    return [(order[begin : begin + batch_size], start - begin) for start, begin in zip(starts, begins, strict=True)]


def pair_costs(
    settings: LossSettings,
    text: Tensor,
    image: Tensor,
    labels: Tensor,
    batches: Sequence[tuple[np.ndarray, int]],
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Weigh every pair with the alignment loss among the pairs of its batch, `(pairs,)`, float64.

    Args:
        settings: Of the loss.
        text: Features of the captions, not normalised, `(pairs, width)`.
        image: Features of each pair's image, likewise.
        labels: Identities, `(pairs,)`.
        batches: As `batches_like_training` returns them.
        device: Where the batches are compared.
    """
    costs = np.empty(len(labels))
    for batch, filling in batches:
        chosen = torch.from_numpy(batch)
        inputs = (part[chosen].to(device) for part in (text, image, labels))
        found = settings.alignment(*inputs, reduction="none")
        costs[batch[filling:]] = found[filling:].double().cpu().numpy()
    return costs


def clean_pairs(costs: np.ndarray, seed: int, *, max_iter: int, tol: float, reg_covar: float) -> np.ndarray:
    """Divide pairs by their costs: clean are those that belong to the component of the smaller mean, bool, `(pairs,)`.

    Where all of them do, the threshold is raised from one half to the 1% quantile. Equal costs divide nothing: all are clean.

    Args:
        costs: `(pairs,)`.
        seed: Starts the mixture.
        max_iter: Rounds of expectation and maximisation.
        tol: Gain of the mean log-likelihood below which they end.
        reg_covar: Added to the variances, in units of the costs scaled to [0, 1].
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    spread = costs.max() - costs.min()
    if not spread > 0:
        return np.ones(len(costs), dtype=bool)
    scaled = ((costs - costs.min()) / spread)[:, None]
    mixture = GaussianMixture(2, max_iter=max_iter, tol=tol, reg_covar=reg_covar, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ten rounds are meant to be few
        mixture.fit(scaled)
    share = mixture.predict_proba(scaled)[:, mixture.means_.argmin()]
    threshold = 0.5
    if share.min() > threshold:
        threshold = np.sort(share)[len(share) // 100]
    clean = share > threshold
    return clean if clean.any() else np.ones(len(costs), dtype=bool)


def consensus_weights(costs: Sequence[np.ndarray], seed: int, epoch: int, mixture: dict[str, Any]) -> np.ndarray:
    """Decide which pairs count in an epoch, `(pairs,)`, float32: 1 or 0.

    Args:
        costs: One or two lists, `(pairs,)` each.
        seed: Together with the epoch it starts the mixtures and tosses the coins.
        epoch: From 0.
        mixture: Other arguments of `clean_pairs`.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, epoch], spawn_key=(COINS,)))
    start = int(generator.integers(2**31))
    coins = generator.random(len(costs[0])) < 0.5
    votes = np.stack([clean_pairs(one, start, **mixture) for one in costs])
    return np.where(votes.all(axis=0), True, np.where(votes.any(axis=0), coins, False)).astype(np.float32)


def kept_shares(weights: np.ndarray, matched: np.ndarray | None) -> dict[str, float]:
    """Say in percent how many pairs count, and, where it is known which are right, how many of those and of the others.

    Args:
        weights: 1 or 0, `(pairs,)`.
        matched: Whether a pair is of one person, `(pairs,)`, bool; None: not known.
    """
    shares = {"pairs_kept": 100 * float(weights.mean())}
    if matched is not None:
        for name, chosen in (("clean_pairs_kept", matched), ("noisy_pairs_kept", ~matched)):
            if chosen.any():
                shares[name] = 100 * float(weights[chosen].mean())
    return shares


class ConsensusDivision(TrainerCallback):
    """Divide the training pairs before each epoch, and know the weight of every pair during it.

    Args:
        trainer: Its model is asked, its settings say how, its log and its clock are used.
        pairs: What is trained on.
        processor: Of the model.

    Attributes:
        weights: Of the running epoch, `(pairs,)`, float32, on the training device; None before the first.
        epoch: The running one, from 0.

    Raises:
        InputError: If the training data are no PairDataset.
    """

    def __init__(self, trainer: Any, pairs: Any, processor: CLIPProcessor):
        if not isinstance(pairs, PairDataset):
            raise InputError(
                "noisy_pairs consensus weighs the pairs of a PairDataset, or of a split in the dataset form; "
                f"train_dataset is a {type(pairs).__name__}."
            )
        self.trainer, self.pairs, self.processor = trainer, pairs, processor
        self.weights: Tensor | None = None
        self.epoch = -1
        self._restored = False

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Divide the pairs, or take the division that a checkpoint within this epoch has kept.

        Raises:
            CannotResume: If the epoch began before the checkpoint, which has kept no division of it.
        """
        epoch, restored = int(state.epoch or 0), self._restored
        self._restored = False
        if restored and self.epoch == epoch:
            return
        if not float(state.epoch or 0).is_integer():
            raise CannotResume(
                f"training cannot go on within epoch {epoch}: the checkpoint has no {PAIR_WEIGHTS} of it; set noisy_pairs "
                "as that run had it, or take a checkpoint of the end of an epoch."
            )
        with self.trainer.monitor.pausing():
            weights = self.divide(self.trainer.args, epoch)
        self.epoch, self.weights = epoch, torch.from_numpy(weights).to(self.trainer.args.device)
        self.trainer.log(kept_shares(weights, self.pairs.matched))

    def divide(self, args: CFFATrainingArguments, epoch: int) -> np.ndarray:
        """Weigh and divide all pairs with the model as it is; every process gets the same, `(pairs,)`, float32.

        Args:
            args: Of the run.
            epoch: From 0.
        """
        accelerator = self.trainer.accelerator
        model = training_model(accelerator.unwrap_model(self.trainer.model))
        text, image = self.encode(model, args, accelerator.autocast())
        found: list[Any] = [None]
        if PartialState().is_main_process:  # the others could round differently
            image = image[torch.from_numpy(self.pairs.captions.rows)]
            sampler = ShuffleSampler(len(self.pairs), args.seed)
            sampler.set_epoch(epoch)
            batches = batches_like_training(np.array(list(sampler)), args.train_batch_size * args.world_size)
            widths = [model.config.projection_dim]
            widths.append(text.shape[1] - widths[0])
            labels = torch.from_numpy(self.pairs.person_labels)
            costs = [
                pair_costs(args, one, other, labels, batches, args.device)
                for one, other in zip(text.split(widths, dim=1), image.split(widths, dim=1), strict=True)
                if one.shape[1]
            ]
            mixture = MUCH_NOISE if args.consensus_much_noise else MIXTURE
            found = [consensus_weights(costs, args.seed, epoch, mixture)]
        if PartialState().num_processes > 1:
            broadcast_object_list(found)
        return found[0]

    def encode(
        self, model: CFFAForPreTraining, args: CFFATrainingArguments, autocast: AbstractContextManager
    ) -> tuple[Tensor, Tensor]:
        """Encode every caption and every image once, `(captions, D + F)` and `(images, D + F)`, in evaluation mode.

        The batches are dealt out to the processes, so that they do not depend on how many there are.
        """
        state, size = PartialState(), args.per_device_eval_batch_size
        lengths = [len(self.pairs.captions.input_ids(index)) for index in range(len(self.pairs))]
        features = []
        with autocast:
            for name, data, order in (
                ("captions", self.pairs.captions, np.argsort(lengths, kind="stable")),
                ("images", self.pairs.images, np.arange(len(self.pairs.images))),
            ):
                batches = [order[start : start + size] for start in range(0, len(order), size)]
                encoded = encode_batches(
                    Embedder(SideBySide(model), self.processor, precision="float32"),
                    data,
                    batches[state.process_index :: state.num_processes],
                    num_workers=args.dataloader_num_workers,
                    progress=None if args.disable_tqdm else f"Weighing {name}",
                )
                features.append(encoded)
        return features[0], features[1]

    def of(self, numbers: Tensor) -> Tensor:
        """Look up the weights of pairs, `(batch,)`, float32.

        Args:
            numbers: Of the pairs, `(batch,)`, on the training device.
        """
        if self.weights is None:
            raise ValueError("the pairs were not divided: no epoch has begun")
        return self.weights[numbers]

    def save(self, folder: str | Path) -> None:
        """Keep the division beside a checkpoint: within an epoch the weights that made it are gone."""
        if self.weights is not None:
            tensors = {"weights": self.weights.cpu(), "epoch": torch.tensor([self.epoch])}
            write_tensors(Path(folder) / PAIR_WEIGHTS, tensors)

    def restore(self, checkpoint: str | Path) -> None:
        """Read what `save` has kept; nothing where there is none.

        Raises:
            CannotResume: If it is damaged or of other pairs.
        """
        path = Path(checkpoint) / PAIR_WEIGHTS
        if not path.is_file():
            return
        try:
            tensors = load_file(path)
            weights, epoch = tensors["weights"], int(tensors["epoch"])
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise CannotResume(f"training cannot go on from {checkpoint}: its {path.name} cannot be read.") from error
        if weights.shape != (len(self.pairs),) or not bool(((weights == 0) | (weights == 1)).all()):
            raise CannotResume(
                f"training cannot go on from {checkpoint}: its {path.name} is of {weights.numel():,} pairs, and the train "
                f"split has {len(self.pairs):,}; take the data of that run."
            )
        self.weights, self.epoch, self._restored = weights.float().to(self.trainer.args.device), epoch, True
