"""What `configs/defend.yaml` holds."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field

from opu_dfa.config import Count, NonNegative, NonNegativeInt, Positive, Seed, settings
from opu_dfa.defense.attacks import find_attack
from opu_dfa.defense.model import Head
from opu_dfa.errors import ConfigError
from opu_dfa.opening import OPUSettings
from opu_dfa.tasks.data import DataSettings
from opu_dfa.tasks.images import Settings as ImageSettings

Rule = Literal["dfa", "straight-through"]


@settings
class DefendSettings:
    """The models, their training and the attacks of `opu-dfa defend`; see the comments of `configs/defend.yaml`."""

    task: ImageSettings
    data: DataSettings
    train_examples: Annotated[int, Field(ge=2)] | None
    test_examples: Count | None

    features: str | list[list[Count]]
    head: Head
    rule: Rule
    n_mirrors: Count
    n_components: Count
    opu: OPUSettings

    epochs: NonNegativeInt
    batch_size: Annotated[int, Field(ge=2)]
    optimizer: Literal["adam", "sgd"]
    lr: Positive
    weight_decay: NonNegative
    augment: bool
    adversarial: bool
    adversarial_steps: Count
    adversarial_epochs: NonNegativeInt

    eps: list[float | str]
    attacks: str | list[str]
    steps: Count | None
    queries: Count | None
    measurements: list[Count]
    score_measurements: Count
    errors: list[NonNegative]
    surrogate_queries: Count
    retrieval: list[Count]
    repeats: Count
    sanity: NonNegativeInt
    chunk: Count

    seeds: Count
    ablations: bool
    seed: Seed
    device: str
    resume: None

    def __post_init__(self) -> None:
        budgets = self.budgets
        if not budgets or any(not 0 < each <= 1 for each in budgets) or budgets != sorted(set(budgets)):
            raise ConfigError(
                f"eps are ascending parts of the range of a pixel, above 0 and at most 1, as in eps=[2/255,8/255]; "
                f"got {self.eps}"
            )
        for name in [self.attacks] if isinstance(self.attacks, str) else self.attacks:
            if name not in ("all", "transfer"):
                find_attack(name)
        if not self.attacks:
            raise ConfigError("attacks is all, or a list of names; got none")

    @property
    def budgets(self) -> list[float]:
        """eps as numbers."""
        return [_number(each) for each in self.eps]


def _number(eps: float | str) -> float:
    try:
        return float(Fraction(eps)) if isinstance(eps, str) else eps
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"eps is a number, or a fraction as in 8/255; got {eps}") from error
