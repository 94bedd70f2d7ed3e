"""Forecasting chaotic series: the systems that make them."""

from opu_dfa.reservoir.systems import SYSTEMS, System

__all__ = ["SYSTEMS", "System"]
