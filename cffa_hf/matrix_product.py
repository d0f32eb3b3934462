"""The fast road to a float32 matrix product on a CPU.

On processors that are not Intel's, MKL multiplies float32 matrices with half of AVX-512's width; oneDNN, which torch
carries too, does not (docs/performance.md).
"""

import torch
from torch import Tensor

ONEDNN = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
ONEDNN_OPERATIONS = 2**23  # multiplications; below, the call costs more than it saves
BLOCK = 1024  # columns made at once: what the back end copies and makes of them stays in the cache
ROW_BLOCK = 4096  # rows that are converted at once


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `x @ weight.T + bias` in oneDNN, without a gradient; only where `ONEDNN` holds.

    Args:
        x: float32 `(..., in)` on the CPU; rows that lie apart make the product up to 200 times slower.
        weight: float32 `(out, in)`.
        bias: float32 `(out,)`.
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def multiply(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Write the dot products of all rows of two matrices into `out`, in blocks and outside autocast.

    Args:
        left: `(rows, width)`; blocks of both are converted to the type and device of `out`.
        right: `(columns, width)`.
        out: `(rows, columns)`.
    """
    with torch.autocast(out.device.type, enabled=False):
        for rows, rows_out in zip(left.split(ROW_BLOCK), out.split(ROW_BLOCK), strict=True):
            block = rows.to(out.device, out.dtype).contiguous()
            for columns, part in zip(right.split(BLOCK), rows_out.split(BLOCK, dim=1), strict=True):
                _multiply_block(block, columns.to(out.device, out.dtype), part)


def _multiply_block(left: Tensor, right: Tensor, out: Tensor) -> None:
    large = left.numel() * len(right) >= ONEDNN_OPERATIONS
    if ONEDNN and large and left.device.type == "cpu" and left.dtype == torch.float32:
        out.copy_(onednn_linear(left, right.contiguous()))
    else:
        torch.mm(left, right.T, out=out)
