"""What a device measures about itself: laser power, bad pixels and the anchor; and how faithful its outputs are."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from hardware.errors import DeviceFault, DeviceInputError
from hardware.holography import Anchor
from hardware.optics import Optics
from hardware.presets import Preset
from hardware.randomness import Frames, Noise

if TYPE_CHECKING:
    from hardware.opu import OPU

_FORMAT = 1


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` measured, for one device.

    identity: the device; frame, n_frames: the camera frame it began with and how many it took; gain: the power of the
    laser in units of the nominal, which the exposure follows; pixels: the camera pixel of each output,
    `(n_components,)`; n_pixels: pixels looked at; anchor: intensity of the anchor on every pixel, `(n_pixels,)`, empty
    without one. Of an appliance, whose units are not known beforehand, gain is the counts that |Rx|² = 1 gives, and
    linear_scale what its linear outputs are multiplied by to be Re(R)x.
    """

    identity: str
    frame: int
    gain: float
    pixels: np.ndarray
    n_pixels: int
    anchor: np.ndarray
    linear_scale: float = 1.0
    n_frames: int = 0

    @property
    def masked(self) -> float:
        """Fraction of the pixels, up to the last one in use, that are bad."""
        return 1 - len(self.pixels) / (int(self.pixels.max()) + 1)

    def check(self, identity: str, n_components: int, n_pixels: int | None = None, anchored: bool = False) -> None:
        """Raise `DeviceInputError` unless this calibration is of that device, and whole."""
        if self.identity != identity:
            raise DeviceInputError(
                f"this calibration is of [{self.identity}], but the device is [{identity}]; calibrate it"
            )
        pixels, anchor = self.pixels, (self.n_pixels,) if anchored else (0,)
        whole = pixels.shape == (n_components,) and len(np.unique(pixels)) == n_components
        inside = whole and pixels.min() >= 0 and pixels.max() < self.n_pixels
        if not inside or n_pixels not in (None, self.n_pixels) or self.anchor.shape != anchor or not self.gain > 0:
            raise DeviceInputError(
                f"this calibration looked at {self.n_pixels} pixels of another camera, or is damaged; calibrate again"
            )

    def save(self, path: str | Path) -> None:
        """Write one file (NumPy's npz, without pickle), replacing what was there only when it is whole."""
        place = Path(path)
        packed = io.BytesIO()
        np.savez_compressed(packed, **self.arrays())  # type: ignore[arg-type]
        part = place.with_name(place.name + ".part")
        part.write_bytes(packed.getvalue())
        part.replace(place)

    @staticmethod
    def load(path: str | Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            DeviceInputError: there is no such file, or it is no calibration.
        """
        try:
            with np.load(Path(path), allow_pickle=False) as packed:
                return Calibration.from_arrays(dict(packed))
        except FileNotFoundError as error:
            raise DeviceInputError(
                f"there is no calibration at {path}; opu.calibrate().save(path) writes one"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error) as error:
            raise DeviceInputError(f"{path} is not a calibration: {error}") from error

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as named arrays."""
        facts = {
            "format": _FORMAT,
            "identity": self.identity,
            "frame": self.frame,
            "n_frames": self.n_frames,
            "gain": self.gain,
            "n_pixels": self.n_pixels,
            "linear_scale": self.linear_scale,
        }
        return {
            "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8),
            "pixels": self.pixels,
            "anchor": self.anchor,
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> Calibration:
        """The inverse of `arrays`."""
        facts = json.loads(arrays["facts"].tobytes().decode())
        if facts.pop("format") != _FORMAT:
            raise ValueError("written by another version; calibrate again")
        return Calibration(pixels=arrays["pixels"], anchor=arrays["anchor"], **facts)


def good_pixels(fit: np.ndarray, n_components: int, before: np.ndarray | None = None) -> np.ndarray:
    """A fit pixel for every output, `(n_components,)`: the one it had, while that is fit, else the next free one.

    Raises:
        DeviceFault: there are too few.
    """
    pixels = np.full(n_components, -1, np.int64)
    if before is not None:
        pixels = np.where(fit[before], before, -1)
    free = np.setdiff1d(np.flatnonzero(fit), pixels, assume_unique=False)
    wanting = np.flatnonzero(pixels < 0)
    if len(free) < len(wanting):
        raise DeviceFault(
            f"only {int(fit.sum())} of {len(fit)} camera pixels are fit to use, {n_components} are needed: "
            "open the device with fewer components, or with more spare pixels in its preset"
        )
    pixels[wanting] = free[: len(wanting)]
    return pixels


def measure(
    optics: Optics,
    preset: Preset,
    noise: Noise,
    frame: int,
    identity: str,
    n_components: int,
    before: Calibration | None = None,
) -> Calibration:
    """Calibrate a simulated instrument from its frames alone, `frame` the first.

    8 frames without light show hot pixels (a mean above 0.1 of full scale), 32 of random half-on patterns dead ones
    (always 0) and the laser's power, 16 of the anchor alone, where there is one, its intensity: too weak below
    `weakest` of its mean, or half of that for a pixel in use. Which pixels are fit is a property of the device: the
    noise of the frames that decide it is drawn from the device's seed.

    Raises:
        DeviceFault: too few good pixels for n_components.
    """
    anchored = preset.holography if isinstance(preset.holography, Anchor) else None
    n_dark, n_bright, n_anchor = 8, 32, 16 if anchored else 0
    draw = torch.Generator().manual_seed(optics.fixed.key("probes") >> 1)
    probes = torch.randint(0, 2, (n_bright, optics.medium.n_features), generator=draw, dtype=torch.uint8)
    probes[:, 0] = 1  # never all dark
    camera, cpu = preset.camera, torch.device("cpu")
    dark, peak, weak, anchor = (np.zeros(optics.n_pixels, np.float32) for _ in range(4))
    total, count = 0.0, 0
    shots = Frames(frame, n_dark), Frames(frame + n_dark, n_bright), Frames(frame + n_dark + n_bright, n_anchor)

    def expose(light: Tensor, full_scale: float, frames: Frames, start: int, source: Noise) -> Tensor:
        """Signals as fractions of full scale."""
        return camera.expose(light, full_scale, source, optics.fixed, frames, start) / camera.levels

    for rows, light, start, stop in optics.pieces(probes):
        pixels = slice(start, stop)
        part = shots[1].part(rows.start, rows.stop)
        speckle = optics.field(light, part, start, stop).square().sum(dim=0)
        seen = expose(speckle, preset.exposure, part, start, optics.fixed)
        peak[pixels] = np.maximum(peak[pixels], seen.amax(dim=0).numpy())
        lights_off = torch.zeros(n_dark, stop - start)
        dark[pixels] = expose(lights_off, preset.exposure, shots[0], start, optics.fixed).mean(dim=0).numpy()
        sound = torch.from_numpy((dark[pixels] < 0.1) & (peak[pixels] > 0))
        seen = expose(speckle, preset.exposure, part, start, noise)[:, sound]
        total, count = total + seen.sum().item(), count + int((seen < 1).sum())
        if anchored:
            full_scale = anchored.headroom * anchored.brightness
            alone = optics.anchor_field(shots[2], start, stop, cpu).square().sum(dim=0).expand(n_anchor, -1)
            weak[pixels] = expose(alone, full_scale, shots[2], start, optics.fixed).mean(dim=0).numpy() * full_scale
            anchor[pixels] = expose(alone, full_scale, shots[2], start, noise).mean(dim=0).numpy() * full_scale
    fit = (dark < 0.1) & (peak > 0)
    if anchored:
        needed = np.full(optics.n_pixels, anchored.weakest * anchored.brightness, np.float32)
        if before is not None:
            needed[before.pixels] /= 2
        fit &= weak >= needed
    expected = 2 * probes.float().sum(dim=1).mean().item() / optics.medium.n_features
    # Sums of intensities over those not cut off: the mean of an exponential, however many are.
    laser = total / max(1, count) * preset.exposure / expected
    return Calibration(
        identity=identity,
        frame=frame,
        n_frames=n_dark + n_bright + n_anchor,
        gain=laser,
        pixels=good_pixels(fit, n_components, before.pixels if before else None),
        n_pixels=optics.n_pixels,
        anchor=anchor / np.float32(laser) if anchored else np.zeros(0, np.float32),
    )


@dataclass(frozen=True)
class Fidelity:
    """How well a device does what it says, on random half-on patterns.

    reference: what the linear outputs were compared with, "ideal projection" for a simulator, else "additivity":
    y(a + b) against y(a) + y(b) for patterns on disjoint mirrors, which needs no knowledge of R.
    correlation, relative_error: of linear outputs with the reference; snr: variance of linear outputs over patterns
    divided by their variance between two measurements of one pattern; ks_exponential: Kolmogorov-Smirnov distance of
    intensities, each in units of its pattern's mean, to the exponential distribution; ks_gaussian: of linear outputs in
    units of their deviation to the Gaussian; saturated, masked: fractions of counts
    at full scale and of pixels not used.
    """

    reference: str
    correlation: float
    relative_error: float
    snr: float
    ks_exponential: float
    ks_gaussian: float
    saturated: float
    masked: float
    intensities: np.ndarray
    projections: np.ndarray
    references: np.ndarray

    def numbers(self) -> dict[str, float]:
        """The figures of merit by name."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, float)}

    def figure(self, path: str | Path) -> None:
        """Draw intensities, projections and the scatter against the reference, in one file (its suffix chooses)."""
        from matplotlib.figure import Figure

        drawing = Figure(figsize=(11, 3.4), layout="constrained")
        left, middle, right = drawing.subplots(1, 3)
        grid = np.linspace(0, 8, 200)
        left.hist(self.intensities, bins=80, range=(0, 8), density=True, color="0.7")
        left.semilogy(grid, np.exp(-grid), "k", lw=1, label="exponential")
        left.set(xlabel="intensity / mean", ylabel="density", ylim=(1e-4, 2))
        left.set_title(f"KS {self.ks_exponential:.4f}, saturated {self.saturated:.2%}")
        grid = np.linspace(-4.5, 4.5, 200)
        middle.hist(self.projections, bins=80, range=(-4.5, 4.5), density=True, color="0.7")
        middle.plot(grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), "k", lw=1, label="Gaussian")
        middle.set(xlabel="linear output / deviation")
        middle.set_title(f"KS {self.ks_gaussian:.4f}, SNR {self.snr:.3g}")
        shown = slice(0, 4000)
        right.plot(self.references[shown], self.projections[shown], ".", ms=2, color="0.3", rasterized=True)
        right.plot([-4, 4], [-4, 4], "k", lw=1)
        right.set(xlabel=self.reference, ylabel="linear output")
        right.set_title(f"correlation {self.correlation:.5f}, error {self.relative_error:.2%}")
        for axes in (left, middle):
            axes.legend(frameon=False)
        drawing.savefig(path, dpi=150)


def fidelity(opu: OPU, n_probes: int = 64) -> Fidelity:
    """Measure `Fidelity`: n_probes rows of `transform`, and 2 n_probes of `linear_transform`, 4 where R is not known.

    Raises:
        DeviceInputError: fewer than 2 probes, mirrors or outputs.
    """
    for name, size in (("probes", n_probes), ("mirrors", opu.n_features), ("outputs", opu.n_components)):
        if not isinstance(size, int) or size < 2:
            raise DeviceInputError(f"fidelity takes 2 {name} at least, got {size}")
    draw = torch.Generator().manual_seed(0xF1DE)
    a = torch.randint(0, 2, (n_probes, opu.n_features), generator=draw, dtype=torch.uint8)
    a[a.sum(dim=1) == 0, 0] = 1
    counts = opu.transform(a)
    first, again = opu.linear_transform(a), opu.linear_transform(a)
    left = a.clone()
    left[:, opu.n_features // 2 :] = 0
    reference, name = opu.ideal(a), "ideal projection"
    if reference is None:
        reference, name = opu.linear_transform(left) + opu.linear_transform(a - left), "additivity"
    scale = first.double().std().item()
    # A count stands for an interval of intensities: spread over it, mirrored at zero, steps do not look like a misfit.
    spread = (counts + torch.rand(counts.shape, generator=draw, dtype=torch.float64) - 0.5).abs()
    unit = spread / counts.double().mean(dim=1, keepdim=True)
    return Fidelity(
        reference=name,
        correlation=float(np.corrcoef(first.flatten().numpy(), reference.flatten().numpy())[0, 1]),
        relative_error=((first - reference).norm() / reference.norm()).item(),
        snr=_snr(first.double(), again.double()),
        ks_exponential=_ks_distance(-torch.expm1(-unit)),
        ks_gaussian=_ks_distance(torch.special.ndtr(first.double() / scale)),
        saturated=(counts >= opu.largest_count).double().mean().item(),
        masked=opu.calibration.masked if opu.calibration else 0.0,
        intensities=unit.flatten().numpy(),
        projections=(first / scale).flatten().numpy(),
        references=(reference / scale).flatten().numpy(),
    )


def _snr(first: Tensor, again: Tensor) -> float:
    noise = (first - again).square().mean().item() / 2
    return float("inf") if noise == 0 else (first.var().item() - noise) / noise


def _ks_distance(distribution: Tensor) -> float:
    """sup |F_empirical - F|, given F at every value: the Kolmogorov-Smirnov statistic."""
    expected = distribution.flatten().sort().values
    n = len(expected)
    above = torch.arange(1, n + 1, dtype=torch.float64) / n - expected
    return max(above.max().item(), (1 / n - above).max().item())
