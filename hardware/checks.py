"""What may be shown on a device: the checks of its inputs, and arrays to tensors and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hardware.errors import DeviceInputError


def checked_rows(x: np.ndarray | Tensor, n_features: int) -> Tensor:
    """The input as a tensor `(batch, n_features)` of finite real numbers.

    Raises:
        DeviceInputError: another shape, no row, complex or other numbers, NaN or infinity.
    """
    if not isinstance(x, (np.ndarray, Tensor)):
        raise DeviceInputError(f"a device takes a NumPy array or a torch tensor, got {type(x).__name__}")
    if isinstance(x, np.ma.MaskedArray):
        raise DeviceInputError("a device has no use for a mask: fill the masked array first")
    if isinstance(x, np.ndarray):
        if x.dtype.kind not in "biuf":
            raise DeviceInputError(f"a device takes real numbers, got an array of dtype {x.dtype}")
        if not x.flags.writeable or min(x.strides, default=0) < 0 or not x.dtype.isnative:
            x = np.array(x, dtype=x.dtype.newbyteorder("="))
        x = x.astype(np.float64) if x.dtype.itemsize > 8 else x
    rows = torch.as_tensor(x).detach()
    if rows.layout != torch.strided or rows.is_quantized or rows.is_meta or "float8" in str(rows.dtype):
        raise DeviceInputError(f"a device takes dense tensors of ordinary numbers, got {rows.layout}, {rows.dtype}")
    if rows.dtype in (torch.uint16, torch.uint32, torch.uint64):  # of which torch can do little
        rows = rows.double() if rows.dtype == torch.uint64 else rows.to(torch.int64)
    if rows.is_complex():
        raise DeviceInputError(f"a device takes real numbers, got a tensor of dtype {rows.dtype}")
    if rows.ndim != 2 or rows.shape[1] != n_features or len(rows) == 0:
        raise DeviceInputError(
            f"a device takes rows of shape (batch, {n_features}) with batch >= 1, got {tuple(rows.shape)}"
        )
    if rows.is_floating_point() and not torch.isfinite(rows).all():
        value = rows[~torch.isfinite(rows)][0].item()
        raise DeviceInputError(f"a device takes finite numbers, got {value}; check the computation before it")
    return rows


def is_binary(rows: Tensor) -> bool:
    """Whether every entry is 0 or 1."""
    if rows.dtype == torch.bool:
        return True
    if not rows.is_floating_point():
        return bool(rows.amin() >= 0) and bool(rows.amax() <= 1)
    return bool(((rows == 0) | (rows == 1)).all())


def binary_patterns(rows: Tensor) -> Tensor:
    """Checked rows as uint8 patterns.

    Raises:
        DeviceInputError: an entry is not 0 or 1.
    """
    if not is_binary(rows):
        bad = rows[(rows != 0) & (rows != 1)][0].item()
        raise DeviceInputError(
            f"transform shows binary patterns, every entry 0 or 1; got {bad:g}. "
            "Encode real values first (hardware.encoding), or use linear_transform."
        )
    return rows.to(torch.uint8)


def like(x: np.ndarray | Tensor, result: Tensor):  # type: ignore[no-untyped-def]
    """The result in the array library of the input."""
    return result.cpu().numpy() if isinstance(x, np.ndarray) else result
