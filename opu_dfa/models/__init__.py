"""Networks laid out as blocks, and where direct feedback alignment enters each."""

from opu_dfa.models.build import build_model
from opu_dfa.models.layout import Layout

__all__ = ["Layout", "build_model"]
