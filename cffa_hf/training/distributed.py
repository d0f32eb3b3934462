"""Many processes as one: collectives that gradients flow through, and batch norm over the tokens of all processes.

Every process computes the same loss of the whole batch. A collective here adds up the gradients of all processes in its
backward pass, and distributed training then averages the parameters' gradients over the processes: together that is
the gradient of one process with the whole batch, without any factor.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


def process_count() -> int:
    """Return the number of processes that train together; 1 without distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def leave_process_group() -> None:
    """Close the connections to the other processes; nothing without distributed training.

    The threads of a process group free tensors that belong to Python. One that does so while the interpreter shuts down
    aborts the process, and the launcher calls the whole training failed. They end only once nobody refers to the group,
    and the trainer refers to it in circles: hence the collection.
    """
    if dist.is_available() and dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


class GatherRows(torch.autograd.Function):
    """Concatenate the rows of all processes; processes may have different numbers of them."""

    @staticmethod
    def forward(ctx, rows: Tensor, sizes: list[int]) -> Tensor:
        """Gather `(n, width)` of every process as `(sum of sizes, width)`, in the order of the processes."""
        ctx.sizes = sizes
        padded = rows.new_zeros(max(sizes), rows.shape[1])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """Add up what all processes want of these rows."""
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.split(ctx.sizes)[dist.get_rank()], None


class SumOverProcesses(torch.autograd.Function):
    """Add up a tensor of the same shape over all processes; so does the backward pass."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        """Return the sum over processes."""
        total = values.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        """Add up what all processes want of the sum."""
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


@dataclass(frozen=True)
class BatchCounts:
    """How a batch is spread over the processes, and what its means are divided by.

    A sum over this process's share, divided by `pairs` or `masked`, is a loss whose mean over the processes is the mean
    over the whole batch, whatever the shares.

    Args:
        sizes: Pairs of each process.
        pairs: Pairs of the whole batch, per process.
        masked: Masked tokens of the whole batch, per process, or 1 if there are none.
    """

    sizes: list[int]
    pairs: float
    masked: Tensor

    @classmethod
    def of(cls, labels: Tensor, mlm_labels: Tensor | None) -> "BatchCounts":
        """Count a batch: every process calls this with its share.

        Args:
            labels: Identities, `(batch,)`.
            mlm_labels: -100 where nothing is predicted, `(batch, length)`; None without MLM.
        """
        masked = labels.new_zeros(()) if mlm_labels is None else (mlm_labels != -100).sum()
        processes = process_count()
        if processes == 1:
            return cls([len(labels)], len(labels), masked.clamp(min=1))
        counts = torch.stack([torch.full_like(masked, len(labels)), masked])
        parts = [torch.empty_like(counts) for _ in range(processes)]
        dist.all_gather(parts, counts)
        every = torch.stack(parts)  # (processes, 2)
        sizes = every[:, 0].tolist()
        return cls(sizes, sum(sizes) / processes, every[:, 1].sum().clamp(min=1) / processes)


def gather_rows(tensors: Sequence[Tensor], sizes: list[int]) -> list[Tensor]:
    """Concatenate the rows of all processes, with gradients flowing back to every process, in one collective.

    Args:
        tensors: Each `(n, width)` with a width of its own and one n, float32 or below.
        sizes: How many rows each process has.

    Returns:
        One `(sum of sizes, width)` for each tensor, float32; the tensors themselves if there is one process.
    """
    if len(sizes) == 1:
        return list(tensors)
    widths = [tensor.shape[1] for tensor in tensors]
    gathered = GatherRows.apply(torch.cat([tensor.float() for tensor in tensors], dim=1), sizes)
    return list(gathered.split(widths, dim=1))


def gather_labels(labels: Tensor, sizes: list[int]) -> Tensor:
    """Concatenate the labels, or other numbers of pairs, `(n,)` of all processes; `sizes` as in `gather_rows`."""
    return labels if len(sizes) == 1 else GatherRows.apply(labels[:, None], sizes)[:, 0]


class SyncedBatchNorm1d(nn.BatchNorm1d):
    """Batch norm of `(n, channels)` over the rows of all processes, on any device and for different n.

    Names, shapes and values of the state are those of `nn.BatchNorm1d`, and running statistics are equal everywhere.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `(n, channels)`; statistics are computed in float32."""
        if not self.training or process_count() == 1:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            rows = input.float()
            ones = rows.new_tensor([len(rows)])
            total = SumOverProcesses.apply(torch.cat([rows.sum(dim=0), ones]))
            count = total[-1].detach()
            mean = total[:-1] / count
            centred = rows - mean
            variance = SumOverProcesses.apply(centred.square().sum(dim=0)) / count
            self.remember(mean, variance * (count / (count - 1).clamp(min=1)))
            result = centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return result.to(input.dtype)

    @torch.no_grad()
    def remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch; `variance` is the unbiased one."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


def synchronise_batch_norm(module: nn.Module) -> None:
    """Replace every `BatchNorm1d` within a module by the one over all processes; weights and statistics stay."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm1d:
            synced = SyncedBatchNorm1d(child.num_features, child.eps, child.momentum, child.affine)
            synced.load_state_dict(child.state_dict())
            synced.weight, synced.bias = child.weight, child.bias
            synced.to(child.weight.device, child.weight.dtype).train(child.training)
            setattr(module, name, synced)
        else:
            synchronise_batch_norm(child)
