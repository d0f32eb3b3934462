"""CFFATrainer: the Hugging Face Trainer with CFFA's losses, parameter groups, schedule and retrieval evaluation."""

import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler
from transformers.trainer_utils import SchedulerType, speed_metrics
from transformers.training_args import OptimizerNames

from cffa_hf.arguments.training import CFFATrainingArguments
from cffa_hf.checkpoints.folders import CONFIG
from cffa_hf.checkpoints.opening import without_bars
from cffa_hf.checkpoints.provenance import weights_digest
from cffa_hf.cpu_layers import use_cpu_layers
from cffa_hf.data.collator import MLM_INPUTS, TrainingTransform
from cffa_hf.data.mixture import Mixture, MixtureSampler
from cffa_hf.data.sampler import IdentitySampler, ShuffleSampler
from cffa_hf.data.seen import SEEN_RECORD, SeenData, seen_splits
from cffa_hf.errors import InputError, LossNotFinite
from cffa_hf.evaluation.callback import RetrievalEvaluationCallback
from cffa_hf.evaluation.evaluator import RetrievalEvaluator
from cffa_hf.files import move_files
from cffa_hf.losses import ALIGNMENT_LOSSES
from cffa_hf.modeling_cffa import CFFAOutput
from cffa_hf.publishing.model import open_run_repository, publish_run
from cffa_hf.records.results import set_aside_results
from cffa_hf.training.batch_loss import BatchLoss, of_the_model
from cffa_hf.training.batches import (
    check_best_metric,
    fit_arguments,
    pair_collator,
    training_pairs,
    training_transform_of,
)
from cffa_hf.training.consensus import ConsensusDivision
from cffa_hf.training.cpu_memory import kept_memory
from cffa_hf.training.distributed import process_count, synchronise_batch_norm
from cffa_hf.training.gradient_cache import cached_backward
from cffa_hf.training.lora import is_adapted, save_embedding_model, training_model
from cffa_hf.training.monitoring import TrainingMonitor
from cffa_hf.training.optimisation import parameter_groups, warmup_cosine_factor
from cffa_hf.training.order import OrderedTrainer, SamplerEpochCallback
from cffa_hf.training.printing import use_readable_lines
from cffa_hf.training.published_precision import float32_weights, use_published_precision
from cffa_hf.training.saving import UNFINISHED, explained_writes, last_good


class CFFATrainer(OrderedTrainer):
    """Train a CFFAForPreTraining on pairs and evaluate retrieval.

    Args:
        model: A CFFAForPreTraining, perhaps with adapters of PEFT.
        args: Settings, CFFATrainingArguments.
        data_collator: None: a PairCollator.
        train_dataset: A split in the dataset form, as `load_person_dataset` gives it, a PairDataset made of one, or a stream.
        eval_dataset: A split in the dataset form, or a dict of such; None: nothing is evaluated while training.
        processing_class: The model's CLIPProcessor.
        training_transform: Draws augmentation, corruption and masking for each batch, on the training device. None: as
            `args` say.
        mixture: Which rows of the train split are of which data set, and how often each is gone through. None: of one.
        seen: What the run sees, recorded beside the weights of every checkpoint. None: the two splits that are given.
        **kwargs: As for `Trainer`.

    Raises:
        InputError: If the splits do not fit the model.
    """

    args: CFFATrainingArguments
    model: Any
    train_dataset: Any
    processing_class: Any
    # The terms are sums or means over one batch; over accumulated batches their mean is taken.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: Any,
        args: CFFATrainingArguments,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        training_transform: TrainingTransform | None = None,
        seen: SeenData | None = None,
        mixture: Mixture | None = None,
        **kwargs: Any,
    ):
        self.mixture = mixture
        config = training_model(model).config
        if isinstance(train_dataset, datasets.Dataset):
            pairs = training_pairs(train_dataset, config, processing_class)
            if seen is None and args.should_save:
                seen = seen_splits(train_dataset, eval_dataset)
            train_dataset = pairs
        if processing_class is not None:
            data_collator = data_collator or pair_collator(processing_class)
            training_transform = training_transform or training_transform_of(args, config, processing_class)
        fit_arguments(args, train_dataset, eval_dataset)
        check_best_metric(args, eval_dataset)
        if args.precision == "published":
            use_published_precision(model)
        super().__init__(model, args, data_collator, train_dataset, eval_dataset, processing_class, **kwargs)
        self.fit_layers(self.model)
        self.training_transform: Any = training_transform
        self.seen = seen
        self.add_callback(RetrievalEvaluationCallback)
        self.monitor = TrainingMonitor()
        self.add_callback(self.monitor)
        use_readable_lines(self)
        self._batch_of_step = (-1, 0)
        self._evaluators: dict[int, tuple[datasets.Dataset, RetrievalEvaluator]] = {}
        self._sampler_epoch = SamplerEpochCallback()
        self.add_callback(self._sampler_epoch)
        self.consensus: ConsensusDivision | None = None
        if self.args.noisy_pairs == "consensus" and train_dataset is not None:
            self.consensus = ConsensusDivision(self, train_dataset, processing_class)
            self.add_callback(self.consensus)
        self._refuse_what_sharded_weights_cannot()

    def fit_layers(self, model: nn.Module) -> None:
        """Give a model the layers of the training device and of the number of processes, in place."""
        if self.args.device.type == "cpu":
            use_cpu_layers(model)
        if self.args.sync_batch_norm and process_count() > 1:
            synchronise_batch_norm(model)

    def _refuse_what_sharded_weights_cannot(self) -> None:
        """Say at once what does not work where the weights are not whole on every process."""
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if sharded and self.args.precision == "published":
            raise InputError(
                "FSDP and DeepSpeed keep weights in types of their own and do not go with precision published; take ddp.yaml "
                "or one process."
            )
        if self.args.cached_batch_size is not None and (sharded or self.args.n_gpu > 1):
            raise InputError(
                "cached_batch_size works with one process per device, not with FSDP, DeepSpeed or several devices in "
                "one process; start the run with torchrun or accelerate launch --multi_gpu."
            )
        if self.is_fsdp_enabled and is_adapted(self.model):
            raise InputError("lora trains too little to need FSDP, which does not merge adapters; take ddp.yaml.")
        if self.is_fsdp_enabled and self.args.noisy_pairs != "none":
            raise InputError(
                "noisy_pairs works with weights that are whole on every process, not with FSDP; take ddp.yaml."
            )
        if self.is_fsdp_enabled and self.args.eval_strategy != "no":
            raise InputError(
                "FSDP does not evaluate during training; set eval_strategy no, save_strategy epoch and "
                "load_best_model_at_end false, and evaluate afterwards with run_eval.py."
            )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as `SafeTrainer` does; on a CPU, freed memory is kept until the end."""
        with kept_memory() if self.args.device.type == "cpu" else nullcontext():
            return super().train(*args, **kwargs)

    def batch_generator(self) -> torch.Generator:
        """Make the random generator of the next batch.

        It depends on the seed, the step, the batch within the step and the process, and on nothing that happened before: a
        resumed run draws what the interrupted one would have drawn.
        """
        step, batch = self._batch_of_step
        batch = batch + 1 if step == self.state.global_step else 0
        self._batch_of_step = (self.state.global_step, batch)
        words = [self.args.seed, self.state.global_step, batch, self.args.process_index]
        return torch.Generator().manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1))

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Corrupt the batch on the training device, then train on it, at once or in chunks."""
        self.monitor.add_images(len(inputs["person_labels"]))
        batch = self._prepare_inputs(inputs)
        inputs = self.training_transform(batch, self.batch_generator())
        if self.consensus is not None:
            inputs["pair_weights"] = self.consensus.of(batch["pairs"])
        if not training_model(self.accelerator.unwrap_model(model)).config.use_mlm:
            inputs = {name: value for name, value in inputs.items() if name not in MLM_INPUTS}
        if self.args.cached_batch_size is not None:
            return self._cached_step(model, inputs, self.args.cached_batch_size)
        return super().training_step(model, inputs, num_items_in_batch)

    def _cached_step(self, model: nn.Module, inputs: dict[str, Any], chunk_size: int) -> Tensor:
        """Train on a batch that is encoded in chunks; the gradient is that of the whole batch."""
        model.train()
        loss = BatchLoss.of(self.args, inputs)
        accumulated = self.current_gradient_accumulation_steps

        def predictions(output: CFFAOutput, chunk: dict[str, Any]) -> dict[str, Tensor]:
            if output.mlm_logits is not None:
                self.monitor.add_accuracy(output.mlm_logits, chunk["mlm_labels"])
            return loss.predictions(output, chunk["person_labels"], chunk.get("mlm_labels"))

        terms = cached_backward(
            model,
            inputs,
            chunk_size,
            alignment=loss.alignment,
            predictions=predictions,
            accelerator=self.accelerator,
            divisor=accumulated,
        )
        self.monitor.add_terms(self.state.global_step + 1, terms)
        return torch.stack(list(terms.values())).sum() / accumulated

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Sum the weighted terms: MAL on global and local features, identity, masked language modelling.

        Args:
            model: The training model, perhaps wrapped.
            inputs: A batch as TrainingTransform returns it.
            return_outputs: Whether the model's output is returned beside the loss.
            num_items_in_batch: Not used: the terms are not averaged over tokens.
        """
        batch_loss = BatchLoss.of(self.args, inputs)
        output = model(**of_the_model(inputs))
        local = None if output.text_local is None else (output.text_local, output.image_local)
        terms = batch_loss.alignment((output.text_global, output.image_global), local)
        terms |= batch_loss.predictions(output, inputs["person_labels"], inputs.get("mlm_labels"))
        self.monitor.add_terms(self.state.global_step + 1, terms)
        if output.mlm_logits is not None:
            self.monitor.add_accuracy(output.mlm_logits, inputs["mlm_labels"])
        loss = torch.stack(list(terms.values())).sum()
        return (loss, output) if return_outputs else loss

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the batches of a step; how long is logged."""
        with self.monitor.waiting():
            return super().get_batch_samples(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to a training entry what `TrainingMonitor` collected since the last one, and the temperature.

        Raises:
            LossNotFinite: If a loss or the gradient is not finite; nothing has been saved since then.
        """
        problem = None
        if "loss" in logs:
            logs |= self.monitor.read(lambda values: self.accelerator.reduce(values, "mean"), self.args.world_size)
            constants = ALIGNMENT_LOSSES[self.args.alignment_loss].settings
            if {"logit_scale", "temperature"} & set(constants):
                uses_scale = "logit_scale" in constants
                logs["temperature"] = 1 / self.args.logit_scale if uses_scale else self.args.temperature
            # With fp16 a gradient that overflows is part of the game: the step is skipped and the scale lowered.
            problem = self.monitor.complaint(logs, check_gradient=self.accelerator.scaler is None)
        super().log(logs, start_time)
        if problem is not None:
            raise LossNotFinite(
                f"{problem}: lower learning_rate or refinement_learning_rate, lengthen warmup_epochs, set "
                f"max_grad_norm to 1, or compute with precision float32; {last_good(self.run_folder)}."
            )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with self.monitor.pausing():
            super()._save_checkpoint(model, trial)

    def evaluate(
        self,
        eval_dataset: datasets.Dataset | dict[str, datasets.Dataset] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluate retrieval on rows in the dataset form; the result is logged, reported and returned.

        Args:
            eval_dataset: Rows of one split, or several by name; None: the trainer's own.
            ignore_keys: Not used.
            metric_key_prefix: Stands before every name, with an underscore.

        Returns:
            Metrics in percent, as RetrievalEvaluator gives them, and times in seconds.
        """
        eval_dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(eval_dataset, dict):
            metrics: dict[str, float] = {}
            for name, rows in eval_dataset.items():
                metrics |= self.evaluate(rows, ignore_keys, f"{metric_key_prefix}_{name}")
            return metrics
        self._memory_tracker.start()
        start = time.time()
        evaluator = self._evaluator(eval_dataset)
        model = self.accelerator.unwrap_model(self.model)
        with self.monitor.pausing(), self.accelerator.autocast():
            metrics = {f"{metric_key_prefix}_{name}": value for name, value in evaluator(model).items()}
        metrics |= speed_metrics(metric_key_prefix, start, num_samples=len(evaluator.images) + len(evaluator.captions))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def _evaluator(self, rows: datasets.Dataset) -> RetrievalEvaluator:
        """Prepare a split once: its captions are tokenised at the first evaluation only."""
        if id(rows) not in self._evaluators:
            evaluator = RetrievalEvaluator(
                rows,
                self.processing_class,
                batch_size=self.args.per_device_eval_batch_size,
                num_workers=self.args.dataloader_num_workers,
                progress=not self.args.disable_tqdm,
            )
            self._evaluators[id(rows)] = (rows, evaluator)
        return self._evaluators[id(rows)][1]

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make sure before the training that the repository is there and that the token may write."""
        if self.is_world_process_zero():
            self.hub_model_id = open_run_repository(self.args, token=token, private=private)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Publish the embedding model with its card and records in one commit, as push_to_hub.py does.

        Args:
            commit_message: First line of the commit.
            blocking: Not used: it returns when everything is there.
            token: None: that of the machine.
            revision: Branch; None: the main one.
            **kwargs: `private`; the rest is not used.
        """
        self.save_published()
        self.save_state()
        if not self.is_world_process_zero():
            return None
        private = kwargs.get("private")
        return publish_run(self.args, token=token, private=private, revision=revision, commit_message=commit_message)

    def save_published(self, output_dir: str | None = None) -> None:
        """Save what is published: the embedding model without the training heads, adapters merged, and the processor.

        Args:
            output_dir: None: that of the run.
        """
        # FSDP: every process gives its part of the weights.
        weights = self.accelerator.get_state_dict(self.model) if self.is_fsdp_enabled else self._float32_weights()
        if self.args.should_save:
            output_dir = output_dir or self.run_folder
            with explained_writes("the model", output_dir, self.run_folder):
                unfinished = Path(output_dir) / UNFINISHED / "model"
                shutil.rmtree(unfinished.parent, ignore_errors=True)
                unfinished.mkdir(parents=True)
                with without_bars():
                    save_embedding_model(self.accelerator.unwrap_model(self.model), unfinished, weights)
                self.processing_class.save_pretrained(unfinished)
                self._save_records(str(unfinished))
                # Shards and records of the earlier model go with it: none may stand beside other weights.
                for path in set(Path(output_dir).glob("model*.safetensors*")) | {Path(output_dir) / SEEN_RECORD}:
                    if not (unfinished / path.name).exists():
                        path.unlink(missing_ok=True)
                move_files(unfinished, Path(output_dir), first_gone=CONFIG)
            set_aside_results(output_dir, weights_digest(Path(output_dir)))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        with without_bars():
            super()._save(output_dir, self._float32_weights() if state_dict is None else state_dict)

    def _float32_weights(self) -> dict[str, Tensor] | None:
        """Return the weights as they are saved where they are trained in float16; None: they are saved as they are."""
        return float32_weights(self.model) if self.args.precision == "published" else None

    def _save_records(self, folder: str) -> None:
        if self.seen is not None:
            self.seen.write(folder)

    def _save_division(self, folder: str) -> None:
        super()._save_division(folder)
        if self.consensus is not None:
            self.consensus.save(folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.consensus is not None and checkpoint is not None:
            self.consensus.restore(checkpoint)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """Draw pairs as `sampler` says, in the same order for every number of processes."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        if self.args.sampler == "identity":
            batch_size = self.args.train_batch_size * self.args.world_size
            labels, captions = dataset.person_labels, self.args.captions_per_identity
            self._sampler_epoch.sampler = IdentitySampler(labels, batch_size, captions, seed)
        elif self.mixture is not None:
            sets = self.mixture.sets_of(dataset.captions.rows)
            self._sampler_epoch.sampler = MixtureSampler(sets, self.mixture.weights, seed)
        else:
            self._sampler_epoch.sampler = ShuffleSampler(len(dataset), seed)
        return self._sampler_epoch.sampler

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimizer over `parameter_groups`; Adam as published unless another one is asked for."""
        if self.optimizer is None:
            unwrapped: Any = self.accelerator.unwrap_model(self.model if model is None else model)
            groups = parameter_groups(unwrapped, self.args)
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, unwrapped)
            if self.args.coupled_weight_decay and self.args.optim in (
                OptimizerNames.ADAMW_TORCH,
                OptimizerNames.ADAMW_TORCH_FUSED,
            ):
                optimizer_class = torch.optim.Adam
            if self.args.precision == "published":
                options["fused"] = False  # which would round each step once; Adam here rounds after every operation
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Create the published schedule, stepwise, or the one that `lr_scheduler_type` names."""
        if self.lr_scheduler is None and self.args.lr_scheduler_type == SchedulerType.COSINE:
            total = self.args.num_train_epochs
            steps_per_epoch = num_training_steps / total

            def factor(step: int) -> float:
                return warmup_cosine_factor(
                    step / steps_per_epoch,
                    warmup_epochs=self.args.warmup_epochs,
                    total_epochs=total,
                    warmup_start=self.args.warmup_start,
                )

            self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, factor)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)
