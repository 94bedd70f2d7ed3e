"""Mirrors, a scattering medium and a camera of 8 bits, with faults on request."""

from contextlib import contextmanager
from enum import Enum

import numpy as np

_INPUT_SHAPE = (1140, 912)
_OUTPUT_SHAPE = (2040, 1088)
LIT = np.arange(2880) * 361 + 180  # the light falls on these mirrors only, which keeps the matrix small
_HALF_ON = 20.0  # mean count of a pattern with half its mirrors on, at 400 µs
_SEED = 0x0911


class AcqState(Enum):
    """As in lightonml, which compares the values."""

    stopped = 1
    batch = 2
    online = 3


class OutputRoiStrategy(Enum):
    """As in lightonml, which compares the values."""

    mid_width = 1
    mid_square = 2


class OpuDevice:
    """Counts of |Rx|², for a fixed complex Gaussian R from the lit mirrors to the pixels.

    failures: so many of the next exposures fail; stuck: the count that a pixel, by its place in the region, always
    gives; shown: frames exposed so far.
    """

    input_shape = _INPUT_SHAPE
    output_shape_max = _OUTPUT_SHAPE
    output_roi_strategy = OutputRoiStrategy.mid_width
    output_dtype = np.uint8
    gain_dB = 0.0

    def __init__(self, opu_type, frametime_us, exposure_us, seq_nb_prelim=0, output_roi=None, verbose=0, name="opu"):
        self.frametime_us, self.exposure_us = int(frametime_us), int(exposure_us)
        self.output_roi = output_roi or ((0, 0), _OUTPUT_SHAPE)
        self.active = False
        self.acq_state = AcqState.stopped
        self.failures, self.stuck, self.shown = 0.0, {}, 0
        self._media = {}

    @property
    def output_shape(self):
        return self.output_roi[1]

    @property
    def output_readout_us(self):
        return 10 * self.output_roi[1][1]

    def open(self):
        self.active = True

    def close(self):
        self.active = False

    def reserve(self, n_images):
        if n_images < 1:
            raise ValueError("nothing to reserve")

    def versions(self):
        return "stand-in"

    @contextmanager
    def acquiring(self, n_images=0, online=False):
        self.acq_state = AcqState.online if online else AcqState.batch
        try:
            yield
        finally:
            self.acq_state = AcqState.stopped

    def transform2(self, frames, output, batch_index):
        if self.acq_state is not AcqState.batch:
            raise RuntimeError("a batch without an acquisition")
        output[:] = self._expose(frames, output.shape[1])[: len(output)]
        return output

    def transform1(self, frames, batch_index=-1, n_outputs=1):
        return self._expose(frames, int(np.prod(self.output_shape)))[:n_outputs]

    def transform_single(self, frame):
        return self._expose(frame[None], int(np.prod(self.output_shape)))[0]

    def medium(self, n_pixels):
        """R as `(2, lit mirrors, n_pixels)`, parts of variance 1/mirrors; it belongs to the pixels, not the region."""
        (left, top), (width, height) = self.output_roi
        key = left, top, width, n_pixels
        if key not in self._media:
            rows = []
            for row in range(min(height, -(-n_pixels // width))):
                draw = np.random.default_rng([_SEED, top + row])
                n = min(width, n_pixels - row * width)
                rows.append(draw.standard_normal((n, 2, len(LIT)), dtype=np.float32))
            self._media = {key: np.concatenate(rows).transpose(1, 2, 0) / np.float32(len(LIT) ** 0.5)}
        return self._media[key]

    def _expose(self, frames, n_pixels):
        if not self.active:
            raise RuntimeError("the device is not open")
        if self.frametime_us < max(self.exposure_us, self.output_readout_us):
            raise RuntimeError("a frame is shorter than its exposure or its readout")
        if self.failures > 0:
            self.failures -= 1
            raise RuntimeError("the camera missed a trigger")
        self.shown += len(frames)
        light = ((frames[:, LIT // 8] >> (LIT % 8).astype(np.uint8)) & 1).astype(np.float32)
        real, imaginary = self.medium(n_pixels)
        counts = ((light @ real) ** 2 + (light @ imaginary) ** 2) * (_HALF_ON * self.exposure_us / 400)
        for pixel, count in self.stuck.items():
            counts[:, pixel] = count
        return np.rint(counts).clip(0, 255).astype(np.uint8)
