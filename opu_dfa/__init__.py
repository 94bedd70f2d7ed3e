"""Networks trained with light: direct feedback alignment on an optical processing unit, real or simulated."""

from opu_dfa.dfa import DirectFeedback, Feedback, GaussianFeedback, OpticalFeedback

__all__ = ["DirectFeedback", "Feedback", "GaussianFeedback", "OpticalFeedback"]
