"""Short studies: a paper's theory next to an experiment at finite size, and its central claim as a check."""

from opu_dfa.studies.study import Claim, Study, load, names

__all__ = ["Claim", "Study", "load", "names"]
