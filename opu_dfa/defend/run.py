"""`opu-dfa defend`: train a defence and its undefended twin, attack both alike, and say what holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from opu_dfa.config import parse
from opu_dfa.defend import attackers, models
from opu_dfa.defend.attackers import RECOVERED
from opu_dfa.defend.models import ADVERSARIAL, DEFENDED, UNDEFENDED, Data, Variant
from opu_dfa.defend.records import Records
from opu_dfa.defend.report import print_summary, write_report
from opu_dfa.defend.settings import DefendSettings
from opu_dfa.defend.summary import summarised
from opu_dfa.defense.attacks import Transfer
from opu_dfa.defense.checklist import Evidence, checklist
from opu_dfa.defense.model import OpticalDefense
from opu_dfa.defense.outcome import Report, attacked, measured
from opu_dfa.defense.sanity import run_checks
from opu_dfa.defense.target import Target
from opu_dfa.defense.threats import Threat, varies
from opu_dfa.defense.training import Epoch, train
from opu_dfa.errors import ConfigError
from opu_dfa.progress import Work
from opu_dfa.seeds import stream
from opu_dfa.training.checkpoint import save_tree, write_atomically


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
    compared, further = models.variants(chosen), models.further(chosen)
    records = Records(folder, config, [*compared, *further])
    try:
        with Work(console) as work:
            work.begin("the images")
            run = _Run(chosen, models.find_data(chosen), folder, records, work)
            work.say(run.described)
            with ExitStack() as opened:
                ready = {variant.name: opened.enter_context(run.ready(variant)) for variant in compared}
                reports: dict[str, list[Report]] = {}
                for variant in compared:
                    other = compared[0] if variant.name == DEFENDED else compared[1]
                    replayed = attackers.replay(ready[other.name], other.rule, chosen)
                    twins = reports.get(UNDEFENDED, [])
                    reports[variant.name] = run.evaluated(variant, ready[variant.name], replayed, chosen.budgets, twins)
                device = ready[DEFENDED].opu
                named = None if device is None else device.identity
            last = {}
            for variant in further:
                with run.ready(variant) as model:
                    (last[variant],) = run.evaluated(variant, model, None, chosen.budgets[-1:], None)
        summary = summarised(chosen, run.described, reports, {v.name: report for v, report in last.items()}, named)
        checks = checklist(_evidence(chosen, reports, last))
        write_report(folder, summary, reports, checks)
        write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode())
    finally:
        records.close()
    print_summary(summary, reports, console)


class _Run:
    """The settings, the images, and where results go."""

    def __init__(self, chosen: DefendSettings, data: Data, folder: Path, records: Records, work: Work) -> None:
        self.chosen, self.data, self.folder, self.records, self.work = chosen, data, folder, records, work
        self._open: dict[Path, OpticalDefense] = {}

    @property
    def described(self) -> str:
        shape = "x".join(map(str, self.data.image_shape))
        return (
            f"{self.chosen.task.data}: {len(self.data.labels):,} images to learn from, "
            f"{len(self.data.test_labels):,} others attacked, {shape}, {self.data.n_classes} classes"
        )

    @contextmanager
    def ready(self, variant: Variant) -> Iterator[OpticalDefense]:
        """The model, built and trained, with its device open within."""
        with models.built(variant, self.chosen, self.data) as model:
            self.train(variant, model)
            path = self.folder / variant.file
            self._open[path] = model
            yield model
            del self._open[path]

    def train(self, variant: Variant, model: OpticalDefense) -> None:
        """Train the model and save it; or load it, if that was done before."""
        path = self.folder / variant.file
        if not path.is_file():
            self.work.begin(f"{variant.name}: training", self.chosen.epochs)

            def observe(epoch: Epoch) -> None:
                self.records.epoch(variant.name, epoch)
                self.work.advance()

            train(
                model,
                self.data.images,
                self.data.labels,
                models.recipe(variant, self.chosen),
                stream(variant.seed, "defend training"),
                models.adversary(variant, self.chosen, model),
                observe,
            )
            save_tree(path, model.state_dict())
        models.restore(model, path)

    def _rewind(self) -> None:
        """Set the devices back to where training left them, so that no result depends on what was measured before."""
        for path, model in self._open.items():
            models.restore(model, path)

    def evaluated(
        self,
        variant: Variant,
        model: OpticalDefense,
        replayed: Transfer | None,
        budgets: list[float],
        twins: list[Report] | None,
    ) -> list[Report]:
        """A report at each eps; the checks at the largest, unless twins is None."""
        self.work.begin(f"{variant.name}: what its attackers learn first")
        self._rewind()
        threats = attackers.threats(model, variant.rule, replayed, self.chosen, self.data)
        reports = [self._at(variant, model, threats, eps) for eps in budgets]
        if self.chosen.sanity and twins is not None:
            twin = next((twin for twin in twins if twin.eps == reports[-1].eps), None)
            reports[-1] = self._checked(variant, model, threats, reports[-1], twin)
        return reports

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
            found = attacked(model, images, labels, eps, name, threat, self.chosen.seed, repeats, chunk)
            done[name] = replace(found, right=found.right & report.clean_right, images=torch.empty(0))
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


def _evidence(chosen: DefendSettings, reports: Mapping[str, list[Report]], last: Mapping[Variant, Report]) -> Evidence:
    """What the checklist is ticked by."""
    defended = reports[DEFENDED]
    alike = (
        f"{chosen.optimizer}, {chosen.epochs} epochs, lr {chosen.lr:g}, weight decay {chosen.weight_decay:g}, "
        f"{chosen.n_mirrors} mirrors"
    )
    seeds = [report for variant, report in last.items() if variant.seed != chosen.seed]
    return Evidence(
        defended,
        reports[UNDEFENDED],
        reports.get(ADVERSARIAL, ()),
        [defended[-1], *seeds],
        {(v.head, v.rule): report for v, report in last.items() if v.seed == chosen.seed},
        {o.threat.queries: replace(defended[-1], outcomes=(o,)) for o in defended[-1].outcomes if RECOVERED in o.name},
        matched=alike,
        files=["images/"],
    )


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name} is not there: {str(error).splitlines()[0]}. Choose device=cpu.") from error
