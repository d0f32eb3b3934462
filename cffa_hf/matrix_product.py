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


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `x @ weight.T + bias` in oneDNN, without a gradient; only where `ONEDNN` holds.

    Args:
        x: float32 `(..., in)` on the CPU; rows that lie apart make the product up to 200 times slower.
        weight: float32 `(out, in)`.
        bias: float32 `(out,)`.
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
