"""Direct feedback alignment: feedback operators and the local backward engine."""

from opu_dfa.dfa.engine import DirectFeedback
from opu_dfa.dfa.feedback import Feedback, GaussianFeedback, OpticalFeedback

__all__ = ["DirectFeedback", "Feedback", "GaussianFeedback", "OpticalFeedback"]
