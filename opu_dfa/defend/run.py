"""`opu-dfa defend`: train a defence and its undefended twin, attack both alike, and say what holds."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from opu_dfa.config import parse
from opu_dfa.defend import attackers, models
from opu_dfa.defend.fitting import fit
from opu_dfa.defend.models import ADVERSARIAL, DEFENDED, UNDEFENDED, Data, Variant
from opu_dfa.defend.records import Records
from opu_dfa.defend.report import print_summary, write_report
from opu_dfa.defend.settings import DefendSettings
from opu_dfa.defend.summary import device_of, summarised
from opu_dfa.defense.checklist import Evidence, checklist, matched
from opu_dfa.defense.model import OpticalDefense
from opu_dfa.defense.outcome import Report, attacked, fraction, measured
from opu_dfa.defense.sanity import run_checks
from opu_dfa.defense.target import Target
from opu_dfa.defense.threats import NOISELESS, RECOVERED, Threat, varies
from opu_dfa.errors import ConfigError
from opu_dfa.progress import Work
from opu_dfa.training.checkpoint import write_atomically


def run_defend(config: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Train, attack, and write what the run leaves; in the folder of the same run, continue it.

    Models whose weights are there and attacks that are recorded are not redone.

    Raises:
        UserError: anything a user can mend (`opu_dfa.errors`).
        DeviceError: the device does not open, or fails.
    """
    config = dict(config) | {"resume": None}
    chosen = parse(DefendSettings, config)
    _check_device(chosen.device)
    compared = models.compared(chosen)
    records = Records(folder, config, models.variants(chosen))
    try:
        with Work(console) as work:
            work.begin("the images")
            run = _Run(chosen, models.find_data(chosen), folder, records, work)
            work.say(run.described)
            with ExitStack() as opened:
                ready = {v: opened.enter_context(run.ready(v)) for v in [*compared, *models.seeds(chosen)]}
                device = ready[compared[1]].opu
                training_frames = _frames(ready[compared[1]])
                reports: dict[str, list[Report]] = {}
                for variant in compared:
                    others, twins = models.others(variant, ready), reports.get(UNDEFENDED, [])
                    reports[variant.name] = run.evaluated(variant, ready[variant], others, chosen.budgets, twins)
                last = {v: run.at_last(v, ready[v], models.others(v, ready)) for v in models.seeds(chosen)}
                spent = None if device is None else device_of(device, training_frames, reports[DEFENDED])
                one, two = (models.recipe(variant, chosen) for variant in compared[:2])
                alike = matched((one, two), (ready[compared[1]], ready[compared[0]]))
            for variant in models.grid(chosen):
                with run.ready(variant) as model:
                    last[variant] = run.at_last(variant, model, {})
        summary = summarised(
            chosen, run.described, run.clean, reports, {v.name: report for v, report in last.items()}, spent
        )
        checks = checklist(_evidence(chosen, reports, last, alike))
        write_report(folder, summary, reports, checks)
        write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode())
    finally:
        records.close()
    print_summary(summary, reports, console)


class _Run:
    """The settings, the images, and where results go."""

    def __init__(self, chosen: DefendSettings, data: Data, folder: Path, records: Records, work: Work) -> None:
        self.chosen, self.data, self.folder, self.records, self.work = chosen, data, folder, records, work
        self.clean: dict[str, float] = {}
        self._open: dict[OpticalDefense, dict[str, Any]] = {}

    @property
    def described(self) -> str:
        shape = "x".join(map(str, self.data.image_shape))
        return (
            f"{self.chosen.task.data}: {len(self.data.labels):,} images to learn from, "
            f"{len(self.data.held_out[1]):,} held out, {len(self.data.test_labels):,} of these attacked, {shape}, "
            f"{self.data.n_classes} classes"
        )

    @contextmanager
    def ready(self, variant: Variant) -> Iterator[OpticalDefense]:
        """The model, built, trained and tested on all that is held out, with its device open within."""
        with models.built(variant, self.chosen, self.data) as model:
            record = partial(self.records.epoch, variant.name)
            fit(variant, model, self.chosen, self.data, self.folder, self.work, record)
            self._open[model] = copy.deepcopy(model.state_dict())
            self.clean[variant.name] = self.records.clean(variant.name, lambda: self._tested(model))
            self._rewind()
            yield model
            del self._open[model]

    def _tested(self, model: OpticalDefense) -> float:
        """Accuracy over all images held out, one measurement each."""
        images, labels = (each.to(self.chosen.device) for each in self.data.held_out)
        return fraction(Target(model, self.chosen.chunk)(images).argmax(1) == labels)

    def _rewind(self) -> None:
        """Set the devices back to where training left them, so that no result depends on what was measured before."""
        for model, state in self._open.items():
            model.load_state_dict(state)

    def evaluated(
        self,
        variant: Variant,
        model: OpticalDefense,
        others: attackers.Others,
        budgets: list[float],
        twins: list[Report] | None,
    ) -> list[Report]:
        """A report at each eps; the checks at the largest, unless twins is None."""
        self.work.begin(f"{variant.name}: what its attackers learn first")
        self._rewind()
        threats = attackers.threats(model, variant.rule, others, self.chosen, self.data)
        reports = [self._at(variant, model, threats, eps) for eps in budgets]
        if self.chosen.sanity and twins is not None:
            twin = next((twin for twin in twins if twin.eps == reports[-1].eps), None)
            reports[-1] = self._checked(variant, model, threats, reports[-1], twin)
        return reports

    def at_last(self, variant: Variant, model: OpticalDefense, others: attackers.Others) -> Report:
        """A report at the largest eps, without checks."""
        return self.evaluated(variant, model, others, self.chosen.budgets[-1:], None)[0]

    def _at(self, variant: Variant, model: OpticalDefense, threats: Mapping[str, Threat], eps: float) -> Report:
        images, labels = attackers.on(self.chosen.device, self.data)
        chunk = self.chosen.chunk
        self._rewind()
        repeats = self.chosen.repeats if varies(model, images) else 1
        mean, rate = measured(Target(model, chunk), images, labels, repeats)
        report = Report(
            eps, self.chosen.seed, self.data.n_classes, repeats, labels, mean.argmax(1), rate, rate > 0.5, ()
        )
        done = self.records.attacked(variant.name, report, threats)
        self.work.begin(f"{variant.name}: attacks of eps = {255 * eps:.3g}/255", len(threats), len(done))
        for name, threat in threats.items():
            if name in done:
                continue
            self._rewind()
            before = _frames(model)
            found = attacked(model, images, labels, eps, name, threat, self.chosen.seed, repeats, chunk)
            right, frames = found.right & report.clean_right, _frames(model) - before
            done[name] = replace(found, right=right, images=torch.empty(0), frames=frames)
            self.records.attack(variant.name, report, done[name])
            self.work.advance()
        return replace(report, outcomes=tuple(done[name] for name in threats))

    def _checked(
        self,
        variant: Variant,
        model: OpticalDefense,
        threats: Mapping[str, Threat],
        report: Report,
        twin: Report | None,
    ) -> Report:
        checks = self.records.checked(variant.name, report)
        if checks is None:
            self.work.begin(f"{variant.name}: checks of its evaluation")
            self._rewind()
            some = attackers.on(self.chosen.device, self.data)[0][: self.chosen.sanity]
            checks = run_checks(report, model, some, threats, self.chosen.chunk, twin)
            self.records.checks(variant.name, report, checks)
        return replace(report, checks=checks)


def _evidence(
    chosen: DefendSettings, reports: Mapping[str, list[Report]], last: Mapping[Variant, Report], alike: str
) -> Evidence:
    """What the checklist is ticked by."""
    defended = reports[DEFENDED]
    retrieval: dict[str, dict[int, Report]] = {}
    for outcome in defended[-1].outcomes:
        if RECOVERED in outcome.name:
            device = "without noise" if NOISELESS in outcome.name else "the device"
            retrieval.setdefault(device, {})[outcome.threat.queries] = replace(defended[-1], outcomes=(outcome,))
    seeds = [report for variant, report in last.items() if variant.seed != chosen.seed]
    return Evidence(
        defended,
        reports[UNDEFENDED],
        reports.get(ADVERSARIAL, ()),
        [defended[-1], *seeds],
        {(v.head, v.rule): report for v, report in last.items() if v.seed == chosen.seed},
        retrieval,
        chosen.n_mirrors,
        matched=alike,
        files=["images/"],
    )


def _frames(model: OpticalDefense) -> int:
    """That the model's device has shown since it was opened."""
    return 0 if model.opu is None else model.opu.usage.frames


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name} is not there: {str(error).splitlines()[0]}. Choose device=cpu.") from error
