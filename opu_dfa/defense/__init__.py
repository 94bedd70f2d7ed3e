"""The optical layer as a defence of classifiers, attacks on it, and an evaluation whose attacker knows all of it."""

from opu_dfa.defense.evaluate import evaluate
from opu_dfa.defense.model import OpticalDefense, vgg_features
from opu_dfa.defense.outcome import Report
from opu_dfa.defense.target import Attack, GradientRule, Target

__all__ = ["Attack", "GradientRule", "OpticalDefense", "Report", "Target", "evaluate", "vgg_features"]
