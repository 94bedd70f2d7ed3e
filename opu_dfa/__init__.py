"""Networks trained with light: direct feedback alignment on an optical processing unit, or on a CPU that simulates it."""

from opu_dfa.dfa import DirectFeedback, Feedback, GaussianFeedback, OpticalFeedback

__all__ = ["DirectFeedback", "Feedback", "GaussianFeedback", "OpticalFeedback"]
