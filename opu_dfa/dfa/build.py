"""Names to feedback operators: what a configuration asks for."""

from __future__ import annotations

import inspect
from typing import Any

from hardware import OPU, Encoding
from opu_dfa.dfa.around import CenteredFeedback, SketchedFeedback
from opu_dfa.dfa.feedback import Feedback, GaussianFeedback, Layout
from opu_dfa.dfa.identity import IdentityFeedback
from opu_dfa.dfa.learned import GradientAlignedFeedback, LearnedFeedback
from opu_dfa.dfa.optical import OpticalFeedback
from opu_dfa.dfa.orthogonal import OrthogonalFeedback
from opu_dfa.dfa.sketch import Sketch
from opu_dfa.dfa.sparse import SparseFeedback
from opu_dfa.dfa.structured import StructuredFeedback
from opu_dfa.errors import ConfigError

DIGITAL: dict[str, type[Feedback]] = {
    "gaussian": GaussianFeedback,
    "orthogonal": OrthogonalFeedback,
    "sparse": SparseFeedback,
    "structured": StructuredFeedback,
    "identity": IdentityFeedback,
    "learned": LearnedFeedback,
    "aligned": GradientAlignedFeedback,
}
OPERATORS = (*DIGITAL, "optical")


def build_feedback(
    name: str,
    n_features: int,
    n_components: int,
    layout: Layout = "shared",
    seed: int = 0,
    encoding: Encoding | None = None,
    opu: OPU | None = None,
    sketch: Sketch | None = None,
    centered: bool = False,
    **options: Any,
) -> Feedback:
    """The operator of a name, one of `OPERATORS`.

    Target projection (DRTP) needs no operator of its own: the engine projects the target by any of them
    (`DirectFeedback.targets`).

    Args:
        n_features: width of the error; n_components: width of the signal.
        layout, seed, encoding: see `Feedback`.
        opu: the device of "optical", as wide as the error, or as its sketch if there is one.
        sketch: shown in place of the error (`SketchedFeedback`).
        centered: take the batch mean out of the signal (`CenteredFeedback`).
        options: further arguments of the operator, such as `rate` of "aligned".

    Raises:
        ConfigError: an unknown name or option, or a device that is missing, useless or of another size.

    >>> type(build_feedback("sparse", 10, 32)).__name__
    'SparseFeedback'
    """
    if name not in OPERATORS:
        raise ConfigError(f"there is no feedback {name!r}; choose one of {', '.join(OPERATORS)}")
    if sketch is not None and sketch.n_features != n_features:
        raise ConfigError(f"the sketch takes errors of width {sketch.n_features}, but the error's is {n_features}")
    shown = sketch.n_components if sketch else n_features
    known = {} if name == "optical" else inspect.signature(DIGITAL[name]).parameters
    if unknown := sorted(options.keys() - known):
        raise ConfigError(f"{name} feedback takes no option {unknown[0]!r}")
    feedback: Feedback
    if name == "optical":
        if opu is None or (opu.n_features, opu.n_components) != (shown, n_components):
            seen = "none" if opu is None else f"one of {opu.n_features} -> {opu.n_components}"
            raise ConfigError(
                f"optical feedback needs an open device of {shown} -> {n_components} components, got {seen}"
            )
        feedback = OpticalFeedback(opu, layout, encoding)
    elif opu is not None:
        raise ConfigError(f"{name} feedback uses no device; choose optical, or leave opu out")
    else:
        feedback = DIGITAL[name](shown, n_components, layout, seed, encoding, **options)
    if sketch is not None:
        feedback = SketchedFeedback(feedback, sketch)
    return CenteredFeedback(feedback) if centered else feedback
