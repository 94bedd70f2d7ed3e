"""What DFA and an OPU would save at sizes no machine here has: docs/scaling.md and its figure.

python scripts/scaling.py                                   # under a minute
python scripts/scaling.py opu.devices=16 offload.rows=64    # any constant of configs/scaling.yaml as a word
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

from opu_dfa.scaling.constants import read
from opu_dfa.scaling.law import ROWS, Law, Row, goals
from opu_dfa.scaling.offload import Offload
from opu_dfa.scaling.simulate import Result

DOCS = Path(__file__).resolve().parent.parent / "docs"
GOALS = {64: 0.70, 32: 0.58}  # DFA's step against 1F1B backprop's on 64 stages, by micro-batches
TABLED = ((8, 64, 512), (16, 64, 256, 1024))  # stages and micro-batches of the table over both
COLOURS = {"backprop": "#30638e", "dfa": "#d1495b", "dfa-opu": "#edae49"}
DASHES = {"gpipe": ":", "1f1b": "--", "zb-h1": "-", "dfa": "-"}

INTRODUCTION = """# What DFA and light would save at scale

Written by `make scaling` (`scripts/scaling.py`); do not edit by hand. Simulated, not measured: a discrete-event model
of pipelines (`opu_dfa/scaling`) with the constants of `configs/scaling.yaml`, each with its source there or marked as
assumed{words}. The same simulation takes the constants that `scripts/bench/pipeline.py` measures on real processes
(`opu_dfa.scaling.replay`).

![step times](figures/scaling.png)

"""

GOAL_READING = """
A step in units of a stage's forward pass: {stages} equal stages, a backward pass of twice the forward (of which DFA
leaves out 3 of 12 input-gradient products where it says so). In the second pair of columns a message takes {hop:.3f} of
a forward pass, that of a model of {parameters:.0e} parameters below. *Steady* is a step when each stage starts the next
one as soon as its own update is done, without a barrier, over 1F1B's isolated step. The *backward bubble* is the part
of the step that would be saved if a backward waited for nothing but its own stage's forward. *In flight* counts the
micro-batches whose activations the fullest stage keeps.

- Goals, DFA over 1F1B at equal micro-batches, the worse of both columns:
{verdicts}.
- DFA's bubble is that of the forward pass alone, (p - 1)F of p stages; 1F1B's is (p - 1)(F + B).
- **Zero-bubble backprop takes most of this gain away.** With m ≥ p micro-batches, equal input and weight gradients and
  free messages, ZB-H1 has DFA's bubble to the digit, with exact gradients and the same activations in flight. What is
  left to DFA then are the products it leaves out, its indifference to slow links (backprop's gradients visit every
  stage in turn, an error is broadcast), and few micro-batches, m < p. Interleaved stages, which divide backprop's
  bubble by the number of chunks a stage holds, are not simulated.
- With all forwards first (`dfa-flush`) and m ≥ p, DFA has no bubble at all in the steady state: stages finish in the
  order in which they are needed again. That asks for m micro-batches in flight, and that nothing, such as a clipped
  global norm, looks at all gradients before the update.
"""

PIPELINE_READING = """
Seconds a step of {micro_batches} micro-batches of {tokens} tokens. † does not fit the stages' memory with
{bytes_per_parameter:.0f} bytes a parameter. *Keep up* is the number of OPUs beside the last stage that project as fast
as the stages compute, and the step with these. Widths follow from parameters = 12 · blocks · width², with at least one
block a stage, so many stages make deep and narrow models; the head is dealt to all stages alike.

- One OPU at {frames} frames an error and {frame_time:.0f} µs a frame projects {rows:.0f} tokens a second, of any width;
  these pipelines read more. With a single device DFA is faster than 1F1B backprop {faster}, and slower
  than digital DFA at every size. The devices that keep up at {parameters:.0e} parameters draw {watts:.0f} W.
- Digital projection with one matrix for all blocks costs as much as the head's forward pass, so OPUs that keep up gain
  no more than that. One projects faster than the accelerator if the matrix has more than {entries:.1e} entries. At
  {parameters:.0e} parameters one matrix for all blocks has {shared:.1e}, and one for each of them together
  {independent:.1e}; the device holds at most {largest:.1e}.
- Bytes on the wire are the same as backprop's where the signal, as wide as the residual stream, is broadcast in the
  same precision; what is saved is waiting, not volume.
"""

OFFLOAD_READING = """
One accelerator of {memory:.0f} GB that holds {fits:.2g} parameters' training state; what is beyond streams over PCIe.
{rows:.0f} errors a step, a perceptron. DFA visits each layer once a step (its update and the next forward together),
backprop twice; see `opu_dfa/scaling/offload.py` for the equations. "Passes at" is the number of parameters from which
on DFA with the OPU takes less time than backprop.

**The paper's claim** (arXiv 2409.12965: with offload the hybrid passes backprop at about {claim:.1e} parameters).
With these constants it passes at **{crossing:.2g}**, and between {low:.2g} and {high:.2g} over the two tables above.
That it passes at some billions of parameters, and that offload is what makes it pass, is reproduced. The number is not:
it follows the memory and the errors a step, and we know neither of the paper's, nor its link and optimiser.

It hinges on three assumptions.

- *One visit a layer.* If DFA keeps backprop's order, two visits, the streams hide the arithmetic it saves: it then
  passes at {two_visits}. Where the host's processor updates and the weights stay on the accelerator, as in ZeRO-Offload
  (arXiv 2101.06840), there is no fetch to save either; this engine does not train in single visits.
- *Few errors a step.* The device's time grows with the rows, the streams' does not. A Transformer has an error a token.
- *No digital DFA in the comparison.* The same single visit with a digital projection is faster than with the OPU at
  every size in the table, because one shared matrix of {outputs} outputs is small: what passes backprop here is DFA,
  and light adds to it only above {entries:.1e} entries of the matrix.
"""


@lru_cache
def step(law: Law, row: Row, parameters: float, n_stages: int, n_micro_batches: int | None = None) -> Result:
    return law.predict(row, parameters, n_stages, n_micro_batches)


def pipeline_table(law: Law, points: list[tuple[float, int]], first: str) -> Iterator[str]:
    """A line a point (parameters, stages): steps of all methods, and of OPUs that keep up."""
    methods = " | ".join(row.label for row in ROWS)
    yield f"| {first} | blocks x width | {methods} | keep up | with these | bubble: 1F1B, ZB-H1, DFA |"
    yield "|---|---|" + "---|" * (len(ROWS) + 3)
    for parameters, stages in points:
        found = {row.label: step(law, row, parameters, stages) for row in ROWS}
        devices = law.devices_to_keep_up(parameters, stages)
        enough = step(law.with_devices(devices), ROWS[-1], parameters, stages)
        sizes = law.sizes(parameters, stages)
        name = f"{parameters:.0e}" if first == "parameters" else str(stages)
        mark = "" if law.fits(parameters, stages) else "†"
        bubbles = ", ".join(f"{found[row.label].bubble:.2f}" for row in ROWS[1:4])
        steps = " | ".join(f"{each.step_seconds:.3g}" for each in found.values())
        yield (
            f"| {name}{mark} | {sizes.n_blocks} x {sizes.width} | {steps} | {devices} | {enough.step_seconds:.3g} "
            f"| {bubbles} |"
        )


def goal_tables(law: Law) -> tuple[list[str], str, float]:
    """The tables of the goals, their verdicts, and a message's time in forward passes."""
    stages, parameters = law.pipeline.at_stages, law.pipeline.at_parameters
    costs = law.costs("backprop", law.sizes(parameters, stages), stages)
    assert isinstance(costs.forward, float)
    hop = (law.wire.latency + costs.activation_bytes / law.wire.bandwidth) / costs.forward
    lines, verdicts = [], []
    for m, goal in GOALS.items():
        lines += [
            f"**{stages} stages, {m} micro-batches**",
            "",
            "| | step | / 1F1B | step, with messages | / 1F1B | steady | backward bubble | in flight |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for free, slow in zip(goals(stages, m, 0.0), goals(stages, m, hop), strict=True):
            lines.append(
                f"| {free.label} | {free.result.step_seconds:.0f} | {free.ratio:.3f} "
                f"| {slow.result.step_seconds:.1f} | {slow.ratio:.3f} | {slow.steady:.3f} "
                f"| {slow.result.backward_bubble:.3f} | {free.result.in_flight} |"
            )
            if free.label.startswith("DFA") and free.label.endswith(" dfa"):
                worst = max(free.ratio, slow.ratio)
                verdicts.append(
                    f"  {worst:.3f} at m = {m} with {free.label.split(', ')[1]} (goal {goal:.2f}: "
                    f"{'met' if worst <= goal else 'missed'})"
                )
        lines.append("")
    return lines, ";\n".join(verdicts), hop


def ratio_table(law: Law) -> Iterator[str]:
    """DFA's step over that of 1F1B and of ZB-H1, by stages and micro-batches, at the law's model."""
    several, counts = TABLED
    yield f"| stages | {' | '.join(f'm = {m}' for m in counts)} |"
    yield "|---|" + "---|" * len(counts)
    for stages in several:
        cells = []
        for m in counts:
            steps = [step(law, row, law.pipeline.at_parameters, stages, m).step_seconds for row in ROWS[1:4]]
            cells.append(f"{steps[2] / steps[0]:.2f}, {steps[2] / steps[1]:.2f}")
        yield f"| {stages} | {' | '.join(cells)} |"


def offload_tables(offload: Offload, context: int) -> Iterator[str]:
    yield "| parameters | backprop | DFA, digital | DFA, OPU | OPU / backprop |"
    yield "|---|---|---|---|---|"
    for parameters in offload.host.parameters:
        backprop, dfa = offload.backprop(parameters), offload.dfa(parameters)
        light = dfa + offload.optical
        yield (
            f"| {parameters:.1e} | {backprop:.4g} | {dfa + offload.digital(parameters):.4g} | {light:.4g} "
            f"| {light / backprop:.2f} |"
        )
    yield ""
    yield "| assumption | low | passes at | high | passes at |"
    yield "|---|---|---|---|---|"
    for name, ends in asdict(offload.host.band).items():
        cells = " | ".join(f"{end:.4g} | {passes(offload.changed(name, end))}" for end in ends)
        yield f"| {name.replace('_', ' ')} | {cells} |"
    other = replace(offload, network="transformer").changed("rows", context)
    yield f"| network | perceptron | {passes(offload)} | Transformer, {context} tokens a step | {passes(other)} |"
    yield f"| visits of a layer by DFA | one | {passes(offload)} | two | {passes(replace(offload, visits=2))} |"
    yield ""
    yield f"| passes at, by memory | {' | '.join(f'{rows:.0f} errors a step' for rows in offload.host.over.rows)} |"
    yield "|---|" + "---|" * len(offload.host.over.rows)
    for memory in offload.host.over.memory:
        cells = " | ".join(passes(offload.changed("memory", memory).changed("rows", n)) for n in offload.host.over.rows)
        yield f"| {memory / 1e9:.0f} GB | {cells} |"


def passes(offload: Offload) -> str:
    found = offload.crossing()
    return f"{found:.2g}" if found < 1e15 else "no size"


def faster(law: Law) -> str:
    """In words: the sizes where DFA with the OPU takes less time than 1F1B backprop."""
    at = law.pipeline
    rows = (ROWS[-1], ROWS[1])
    light, backprop = ([step(law, row, n, at.at_stages).step_seconds for n in at.parameters] for row in rows)
    sizes = [n for n, ours, theirs in zip(at.parameters, light, backprop, strict=True) if ours < theirs]
    return f"at {', '.join(f'{n:.0e}' for n in sizes)} parameters only" if sizes else "at none of these sizes"


def figure(law: Law, offload: Offload) -> None:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(13, 4.2), layout="constrained")
    sizes, stages, single = drawn.subplots(1, 3)
    at = law.pipeline
    for row in ROWS:
        style = {"color": COLOURS[row.method], "ls": DASHES[row.schedule], "label": row.label, "marker": "o", "ms": 3}
        sizes.plot(at.parameters, [step(law, row, n, at.at_stages).step_seconds for n in at.parameters], **style)
        stages.plot(at.stages, [step(law, row, at.at_parameters, p).step_seconds for p in at.stages], **style)
    sizes.set(xlabel="parameters", title=f"{at.at_stages} stages, {at.micro_batches} micro-batches")
    stages.set(xlabel="stages", title=f"{at.at_parameters:.0e} parameters, {at.micro_batches} micro-batches")
    grid = [10 ** (8 + i / 20) for i in range(81)]
    single.plot(grid, [offload.backprop(n) for n in grid], color=COLOURS["backprop"], label="backprop")
    single.plot(grid, [offload.dfa(n) + offload.digital(n) for n in grid], color=COLOURS["dfa"], label="DFA, digital")
    ends = min(offload.host.over.rows), max(offload.host.over.rows)
    low, high = (offload.changed("rows", rows) for rows in ends)
    light = {"color": COLOURS["dfa-opu"]}
    single.plot(grid, [offload.dfa(n) + offload.optical for n in grid], label="DFA, OPU", **light)
    edges = [[each.dfa(n) + each.optical for n in grid] for each in (low, high)]
    label = "OPU, {:.0f} to {:.0f} errors a step".format(*ends)
    single.fill_between(grid, *edges, alpha=0.2, lw=0, label=label, **light)
    single.axvline(offload.host.claim, color="black", lw=0.7, ls=":", label="arXiv 2409.12965")
    single.set(xlabel="parameters", title=f"one accelerator, offload, {offload.host.rows:.0f} errors")
    for axes in (sizes, stages, single):
        axes.set(xscale="log", yscale="log", ylabel="seconds a step (simulated)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small")
    (DOCS / "figures").mkdir(parents=True, exist_ok=True)
    drawn.savefig(DOCS / "figures" / "scaling.png", dpi=120)


def page(law: Law, offload: Offload, words: list[str]) -> list[str]:
    at, opu = law.pipeline, law.opu
    goal_lines, verdicts, hop = goal_tables(law)
    sizes = law.sizes(at.at_parameters, at.at_stages)
    ends = [offload.changed(name, end).crossing() for name, band in asdict(offload.host.band).items() for end in band]
    over = offload.host.over
    ends += [offload.changed("memory", m).changed("rows", n).crossing() for m in over.memory for n in over.rows]
    opening = "; here with " + " ".join(words) if words else ""
    return [
        INTRODUCTION.format(words=opening),
        "## Pipelines: the bubble",
        "",
        *goal_lines,
        GOAL_READING.format(stages=at.at_stages, hop=hop, parameters=at.at_parameters, verdicts=verdicts),
        "## Pipelines: sizes and stages",
        "",
        *pipeline_table(law, [(n, at.at_stages) for n in at.parameters], "parameters"),
        "",
        *pipeline_table(law, [(at.at_parameters, p) for p in at.stages], "stages"),
        PIPELINE_READING.format(
            micro_batches=at.micro_batches,
            tokens=law.tokens,
            bytes_per_parameter=law.model.bytes_per_parameter,
            frames=opu.frames,
            frame_time=1e6 * opu.frame_time,
            rows=1 / replace(opu, devices=1).seconds(1),
            faster=faster(law),
            parameters=at.at_parameters,
            watts=law.devices_to_keep_up(at.at_parameters, at.at_stages) * opu.watts,
            shared=law.model.n_symbols * sizes.width,
            independent=law.model.n_symbols * sizes.width * sizes.n_blocks,
            entries=offload.entries_where_light_wins(),
            largest=opu.n_mirrors * opu.n_pixels,
        ),
        f"DFA's step (digital) over 1F1B's, and over ZB-H1's, at {at.at_parameters:.0e} parameters by micro-batches m:",
        "",
        *ratio_table(law),
        "",
        "## One accelerator with offload",
        "",
        *offload_tables(offload, law.model.context),
        OFFLOAD_READING.format(
            memory=offload.host.memory / 1e9,
            fits=offload.fits,
            rows=offload.host.rows,
            claim=offload.host.claim,
            crossing=offload.crossing(),
            low=min(ends),
            high=max(ends),
            two_visits=passes(replace(offload, visits=2)),
            outputs=offload.host.n_outputs,
            entries=offload.entries_where_light_wins(),
        ),
    ]


def main(words: list[str]) -> None:
    law, offload = read(words)
    lines = page(law, offload, words)
    figure(law, offload)
    (DOCS / "scaling.md").write_text("\n".join(lines))
    print(*lines, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
