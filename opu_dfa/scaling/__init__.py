"""What training costs beyond the machine at hand: pipelines of many stages, models of many sizes, optical devices."""

from opu_dfa.scaling.measured import replay
from opu_dfa.scaling.schedules import SCHEDULES, Schedule, schedule
from opu_dfa.scaling.simulate import Link, Projector, Result, StageCosts, predict, steady_step
from opu_dfa.scaling.work import Sizes, Work, shaped

__all__ = [
    "SCHEDULES",
    "Link",
    "Projector",
    "Result",
    "Schedule",
    "Sizes",
    "StageCosts",
    "Work",
    "predict",
    "replay",
    "schedule",
    "shaped",
    "steady_step",
]
