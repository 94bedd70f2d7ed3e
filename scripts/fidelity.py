"""How faithful every preset's linear projections and intensities are: docs/device-fidelity.md and its figure.

python scripts/fidelity.py        # about ten seconds
"""

from __future__ import annotations

from pathlib import Path

from hardware import PRESETS, SimulatedOPU

DOCS = Path(__file__).resolve().parent.parent / "docs"
DRAWN = "appliance"


def main() -> None:
    """Measure each preset on a device of 1,000 mirrors and 2,000 outputs, and write the page."""
    lines = [
        "# How faithful each simulated device is",
        "",
        "Written by `make fidelity` (`scripts/fidelity.py`); do not edit by hand. 1,000 mirrors, 2,000 outputs, 64",
        "random half-on patterns, right after the device was opened. Error and correlation of `linear_transform` are",
        "against Re(R)x; KS is the Kolmogorov-Smirnov distance of intensities to the exponential distribution and of",
        "projections to the Gaussian.",
        "",
        "| preset | frames | error | correlation | SNR | KS exp. | KS Gauss | saturated | masked |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in PRESETS:
        with SimulatedOPU(1000, 2000, preset=name) as opu:
            opu.backoff = 0
            seen = opu.fidelity(64)
            lines.append(
                f"| {name} | {opu.frames_per_projection} | {seen.relative_error:.2%} | {seen.correlation:.5f} "
                f"| {seen.snr:.3g} | {seen.ks_exponential:.4f} | {seen.ks_gaussian:.4f} | {seen.saturated:.3%} "
                f"| {seen.masked:.1%} |"
            )
            if name == DRAWN:
                (DOCS / "figures").mkdir(parents=True, exist_ok=True)
                seen.figure(DOCS / "figures" / "fidelity.png")
    lines += ["", f"The preset `{DRAWN}`:", "", "![fidelity](figures/fidelity.png)", ""]
    (DOCS / "device-fidelity.md").write_text("\n".join(lines))
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
