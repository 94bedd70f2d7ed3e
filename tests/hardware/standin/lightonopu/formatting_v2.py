"""Features to mirrors: a feature takes as many mirrors in a line as there is room for."""

import numpy as np


class Formatter:
    """Maps bit-packed features to bit-packed mirrors of a device of `shape`."""

    def __init__(self, shape):
        self._shape = tuple(shape)
        self.lined_factor = 0

    def define_lined_mapping(self, n_features, roi_size, roi_offset):
        if tuple(roi_size) != self._shape or any(roi_offset):
            raise ValueError("the stand-in shows features on all mirrors")
        self.lined_factor = int(np.prod(self._shape)) // int(np.prod(n_features))

    def apply_format(self, source, target, n_features, reverse_bits):
        order = "little" if reverse_bits else "big"
        mirrors = np.zeros(8 * target.shape[-1], dtype=np.uint8)
        for packed, frame in zip(np.atleast_2d(source), np.atleast_2d(target), strict=True):
            bits = np.unpackbits(packed, count=int(n_features))
            mirrors[: len(bits) * self.lined_factor] = np.repeat(bits, self.lined_factor)
            frame[:] = np.packbits(mirrors, bitorder=order)
