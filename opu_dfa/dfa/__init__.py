"""Direct feedback alignment: feedback operators and the local backward engine."""

from opu_dfa.dfa.around import CenteredFeedback, SketchedFeedback
from opu_dfa.dfa.build import OPERATORS, build_feedback
from opu_dfa.dfa.engine import DirectFeedback
from opu_dfa.dfa.feedback import Feedback, GaussianFeedback
from opu_dfa.dfa.identity import IdentityFeedback
from opu_dfa.dfa.learned import GradientAlignedFeedback, LearnedFeedback
from opu_dfa.dfa.optical import OpticalFeedback
from opu_dfa.dfa.orthogonal import OrthogonalFeedback
from opu_dfa.dfa.sketch import RandomSketch, Sketch, TopK
from opu_dfa.dfa.sparse import SparseFeedback
from opu_dfa.dfa.structured import StructuredFeedback

__all__ = [
    "OPERATORS",
    "CenteredFeedback",
    "DirectFeedback",
    "Feedback",
    "GaussianFeedback",
    "GradientAlignedFeedback",
    "IdentityFeedback",
    "LearnedFeedback",
    "OpticalFeedback",
    "OrthogonalFeedback",
    "RandomSketch",
    "Sketch",
    "SketchedFeedback",
    "SparseFeedback",
    "StructuredFeedback",
    "TopK",
    "build_feedback",
]
