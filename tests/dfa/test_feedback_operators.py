"""What sets each fixed operator apart, and the operators around others: sketches and centring."""

import pytest
import torch

from hardware import SimulatedOPU, ThresholdTernary
from opu_dfa.dfa import (
    CenteredFeedback,
    GaussianFeedback,
    IdentityFeedback,
    OrthogonalFeedback,
    RandomSketch,
    SketchedFeedback,
    SparseFeedback,
    StructuredFeedback,
    TopK,
    build_feedback,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n_features", "n_components"), [(5, 40), (7, 7), (40, 5)])
def test_orthogonal_columns_or_rows_are_orthonormal_up_to_the_scale(n_features, n_components):
    matrix = OrthogonalFeedback(n_features, n_components).matrix
    gram = matrix.T @ matrix if n_components >= n_features else matrix @ matrix.T
    scale = max(n_features, n_components) / n_features
    assert torch.allclose(gram, scale * torch.eye(len(gram)), atol=1e-5)


def test_sparse_rows_hear_one_component_and_all_components_are_heard_equally():
    columns = SparseFeedback(7, 7 * 20 + 3).columns()
    assert columns.abs().sum(dim=1).eq(1).all()
    assert columns.count_nonzero(dim=1).eq(1).all()
    heard = columns.count_nonzero(dim=0)
    assert heard.min() >= 20
    assert heard.max() <= 21


@pytest.mark.parametrize(("n_features", "n_components"), [(10, 200), (100, 30), (65, 64)])
def test_structured_feedback_is_the_matrix_of_the_structured_device(n_features, n_components):
    device = SimulatedOPU(n_features, n_components, seed=5, medium="structured")
    exact = device.ideal(torch.eye(n_features)).T
    feedback = StructuredFeedback(n_features, n_components, seed=5)
    assert torch.allclose(feedback.columns(), exact, rtol=1e-5, atol=1e-6)
    assert not list(feedback.buffers())


def test_structured_feedback_off_the_cpu_is_the_same_map(monkeypatch):
    """The torch operations that other devices use, against the compiled ones."""
    from hardware.structured import StructuredMedium

    feedback, error = StructuredFeedback(20, 100), draw(6, 20)
    compiled = feedback(error, [100])[0]

    def in_torch(self, out, x, quarters, start):
        out.copy_(self._block(x, quarters, len(out))[:, :, start : start + out.shape[2]])

    monkeypatch.setattr(StructuredMedium, "_compiled_block", in_torch)
    assert torch.allclose(feedback(error, [100])[0], compiled, rtol=1e-5, atol=1e-6)


def test_identity_sends_the_error_itself():
    error = draw(3, 4, 6)
    assert all(torch.equal(signal, error) for signal in IdentityFeedback(6, 6)(error, [6, 6]))


def test_a_sketch_keeps_inner_products_on_average():
    """E[SᵀS] = I: the mean over seeds, within the spread that 2/n_components an entry gives it at most."""
    n, k, seeds = 6, 3, 4_000
    sketches = torch.stack([RandomSketch(n, k, seed).matrix for seed in range(seeds)])
    gram = (sketches.transpose(1, 2) @ sketches).mean(dim=0)
    assert (gram - torch.eye(n)).abs().max() < 4.5 * (2 / k / seeds) ** 0.5


def test_a_sketched_operator_s_columns_are_the_product():
    base, sketch = GaussianFeedback(6, 30), RandomSketch(50, 6)
    feedback = SketchedFeedback(base, sketch)
    assert torch.allclose(feedback.columns(), base.matrix @ sketch.matrix, atol=1e-6)
    error = draw(8, 50)
    assert torch.allclose(feedback(error, [30])[0], error @ feedback.columns().T, rtol=1e-4, atol=1e-5)


def test_a_sketch_spares_the_device_s_mirrors():
    opu = SimulatedOPU(6, 30)
    feedback = build_feedback("optical", 50, 30, opu=opu, sketch=RandomSketch(50, 6), centered=True)
    assert feedback(draw(8, 50), [30])[0].shape == (8, 30)
    assert feedback.opu is opu
    assert feedback.patterns_per_error == 2


def test_top_k_keeps_the_largest_entries():
    error = draw(8, 20)
    kept = TopK(20, 5)(error)
    threshold = error.abs().sort(dim=1, descending=True).values[:, 4:5]
    assert torch.equal(kept, torch.where(error.abs() >= threshold, error, torch.zeros(())))
    assert torch.equal(TopK(20, 20)(error), error)
    assert torch.equal(SketchedFeedback(IdentityFeedback(20, 20), TopK(20, 5))(error, [20])[0], kept)


def test_centring_takes_out_what_all_rows_have_in_common():
    """A thresholded error leaves a push common to all rows where the errors themselves have none."""
    error = torch.nn.functional.one_hot(torch.arange(40) % 8, 8).float() - 1 / 8  # sums to zero over the batch
    base = GaussianFeedback(8, 30, encoding=ThresholdTernary())
    pushed = base(error, [30])[0]
    assert pushed.mean(dim=0).norm() > 0.1 * pushed.norm(dim=1).mean()
    centred = CenteredFeedback(base)(error.view(5, 8, 8), [30])[0]
    assert torch.allclose(centred.view(40, 30), pushed - pushed.mean(dim=0), atol=1e-6)
    exact = GaussianFeedback(8, 30)
    assert torch.allclose(CenteredFeedback(exact)(error, [30])[0], exact(error, [30])[0], atol=1e-6)
