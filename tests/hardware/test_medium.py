"""The medium's matrix: who determines it, how Gaussian it is, how exact its products are."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import hadamard

from hardware import DeviceInputError, SimulatedOPU
from hardware.medium import SIGMA, DenseMedium, StreamedMedium, quantiles
from hardware.optics import MEDIA
from hardware.structured import StructuredMedium, walsh_hadamard

ENTRIES = "6f43eb20f16dc3999d1f97ecfb07edde7a229a1d6889ab0e5336f68a628c75df"
FINGERPRINT = """
import hashlib, torch
from hardware import SimulatedOPU
x = (torch.arange(40 * 300).view(40, 300) * 2654435761 % 1000 < 500).to(torch.uint8)
for medium in ("dense", "streamed", "structured"):
    opu = SimulatedOPU(300, 1000, seed=7, medium=medium)
    bits = opu.transform(x).numpy().tobytes() + opu.linear_transform(x).numpy().tobytes()
    print(medium, hashlib.sha256(bits + opu.linear_transform(x * 0.37 - 0.1).numpy().tobytes()).hexdigest())
"""


def rows_of(medium, start, stop):
    """int8 `(rows, 2, n_features)`."""
    tiles = range(start // 64, (stop + 63) // 64)
    parts = [np.concatenate([medium.entries(t, p)[: medium.n_features].T for t in tiles]) for p in (0, 1)]
    return np.stack(parts, axis=1)[start - tiles.start * 64 : stop - tiles.start * 64]


def binary(batch, n, seed=0):
    return torch.randint(0, 2, (batch, n), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_the_matrix_of_a_seed_is_the_same_forever():
    entries = rows_of(StreamedMedium(100, 50, seed=7), 0, 50)
    assert hashlib.sha256(np.ascontiguousarray(entries).tobytes()).hexdigest() == ENTRIES


def test_entries_are_those_of_numpys_philox():
    """An independent implementation of the generator, read as the docstring says."""
    n, seed = 37, 11
    blocks = -(-2 * n // 16)
    philox = np.random.Philox(key=seed)
    words = philox.random_raw(4 * blocks * 200).astype("<u8").view("<u2").reshape(200, -1)[:, : 2 * n]
    assert np.array_equal(rows_of(StreamedMedium(n, 200, seed), 0, 200), quantiles()[words].reshape(200, 2, n))


def test_results_have_the_same_bits_in_another_process():
    printed = [
        subprocess.run([sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    here: list[str] = []
    exec(FINGERPRINT, {"print": lambda *words: here.append(" ".join(words))})
    assert printed[0] == printed[1] == "\n".join(here) + "\n"
    dense, streamed, structured = (line.split()[1] for line in here)
    assert dense == streamed
    assert dense == "d16aa959af4a8a4eab9e879b194d7109a48bc6b7faeeb029e8e1c770d0b1dfac"
    assert structured == "c3c5444977fa74d91cf28fde010bf737c0ab7b2028ff9e2ba348583eea8880d7"


@given(st.integers(0, 2**63 - 1), st.integers(1, 200), st.integers(0, 200), st.integers(1, 150))
@settings(deadline=None, max_examples=30)
def test_any_range_of_rows_is_a_slice_of_the_same_field(seed, n_features, start, count):
    x = binary(3, n_features)
    for kind in MEDIA.values():
        many, fewer = kind(n_features, start + count + 65, seed), kind(n_features, start + count, seed)
        whole = many.field(x, 0, start + count)
        assert torch.equal(fewer.field(x, start, start + count), whole[:, :, start:])


@pytest.mark.parametrize("kind", MEDIA.values())
@pytest.mark.parametrize("make", [lambda x: x, lambda x: x.float() * 0.37 - 0.1, lambda x: x.to(torch.int8) * 77 - 40])
def test_fields_are_the_same_bits_for_any_batch_size_and_thread_count(kind, make):
    medium = kind(300, 1100, seed=1)
    x = make(binary(1000, 300))
    whole = medium.field(x, 0, 1100)
    for size in (1, 7):
        parts = [medium.field(part, 0, 1100) for part in x[:70].split(size)]
        assert torch.equal(torch.cat(parts, dim=1), whole[:, :70])
    threads = torch.get_num_threads()
    try:
        for other in (1, 3):
            torch.set_num_threads(other)
            assert torch.equal(medium.field(x, 0, 1100), whole)
    finally:
        torch.set_num_threads(threads)


def test_dense_and_streamed_are_the_same_matrix():
    x = binary(20, 500)
    dense, streamed = DenseMedium(500, 300, seed=2), StreamedMedium(500, 300, seed=2)
    assert torch.equal(dense.field(x, 0, 300), streamed.field(x, 0, 300))
    assert torch.equal(dense.field(x.float() * 0.3, 10, 77), streamed.field(x.float() * 0.3, 10, 77))


def test_binary_products_are_exact_where_every_entry_counts():
    """Against integer arithmetic, wide enough for many passes of the int16 sums and for the extremes."""
    n = 2000
    medium = DenseMedium(n, 130, seed=0)
    x = torch.cat((binary(5, n), torch.ones(1, n, dtype=torch.uint8), torch.zeros(1, n, dtype=torch.uint8)))
    exact = np.einsum("bn,rpn->pbr", x.numpy().astype(np.int64), rows_of(medium, 0, 130).astype(np.int64))
    expected = exact.astype(np.float32) * np.float32(medium.scale)
    assert np.array_equal(medium.field(x, 0, 130).numpy(), expected)


def test_the_extreme_sums_of_a_pass_do_not_overflow():
    from hardware import kernels

    for value in (-127, 127):
        entries = np.full((512, 64), value, np.int8)
        indices, out = np.zeros((16, 1, 8), np.uint8), np.empty((1, 64), np.int32)
        kernels.pack(np.ones((1, 512), np.uint8), indices)
        kernels.binary_product(indices, entries, out)
        assert (out == 512 * value).all()


def test_real_products_are_exact_to_float32():
    medium = DenseMedium(3000, 100, seed=0)
    x = torch.randn(4, 3000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = torch.from_numpy(rows_of(medium, 0, 100).astype(np.float64)) * medium.scale
    expected = torch.einsum("bn,rpn->pbr", x, exact)
    # Rounding x to 2^-23 of its largest entry: an error of variance (largest / 2^23)²/12 an entry, times R's 1/n.
    deviation = (x.abs().max() / (127 * 2**16) / 12**0.5).item() + 2**-24 * expected.abs().max().item()
    assert (medium.field(x, 0, 100) - expected).abs().max() < 6 * deviation


def test_entries_have_the_moments_of_a_rounded_gaussian():
    entries = rows_of(StreamedMedium(500, 1000, seed=3), 0, 1000).astype(float).ravel() / SIGMA
    n = entries.size
    assert abs(entries.mean()) < 4 / n**0.5
    # Sheppard: rounding to integers adds 1/12 to the variance of the unrounded Gaussian.
    assert entries.var() == pytest.approx(1 + 1 / (12 * SIGMA**2), abs=4 * (2 / n) ** 0.5)
    assert stats.kurtosis(entries) == pytest.approx(0, abs=4 * (24 / n) ** 0.5)
    # Undo the rounding with a uniform dither, then no test at a million samples should see a difference.
    dithered = entries + np.random.default_rng(0).uniform(-0.5, 0.5, n) / SIGMA
    assert stats.kstest(dithered, "norm").pvalue > 1e-3


def test_the_moments_stated_in_the_docstring_are_those_of_the_table():
    table = quantiles().astype(float)
    assert table.var() == pytest.approx(900.04, abs=0.01)
    assert stats.kurtosis(table, fisher=False) == pytest.approx(2.999, abs=0.001)
    assert np.abs(table).max() / SIGMA == pytest.approx(4.2, abs=0.05)
    assert table.mean() == 0


@pytest.mark.parametrize("kind", MEDIA.values())
def test_rows_and_parts_are_uncorrelated_and_of_the_stated_variance(kind):
    n = 4000
    one_hot = torch.eye(n)[::4]  # a thousand columns of R
    columns = kind(n, 80, seed=0).field(one_hot, 0, 80).permute(0, 2, 1).reshape(160, -1).double() * n**0.5
    samples = columns.shape[1]
    assert (columns.square().mean(dim=1) - 1).abs().max() < 5 * (2 / samples) ** 0.5
    correlation = torch.corrcoef(columns) - torch.eye(160)
    assert correlation.abs().max() < 5 / samples**0.5


@pytest.mark.parametrize("n", [16, 64, 128, 512, 4096, 8192, 16384])
def test_walsh_hadamard_is_hadamards_matrix(n):
    x = torch.randint(-50, 51, (3, n), generator=torch.Generator().manual_seed(n)).float()  # sums exact in float32
    if n <= 4096:
        assert np.array_equal(walsh_hadamard(x).numpy(), x.numpy() @ hadamard(n).astype(np.float32))
    assert torch.equal(walsh_hadamard(walsh_hadamard(x)), n * x)


@pytest.mark.parametrize("n", [3, 100, 5000])
def test_a_structured_block_has_the_same_bits_compiled_and_in_torch(n):
    """What runs on a GPU is tested here on the CPU: the same butterflies in the same order."""
    medium = StructuredMedium(n, 2 * max(64, n), seed=3)
    x = torch.randn(5, n, generator=torch.Generator().manual_seed(0))
    compiled = medium.field(x, 0, medium.padded)
    plain = torch_walsh_hadamard_block(medium, x)
    assert torch.equal(compiled, plain)


def torch_walsh_hadamard_block(medium, x):
    from unittest import mock

    import hardware.structured as structured

    with mock.patch.object(structured, "walsh_hadamard", structured.plain_walsh_hadamard):
        return medium._block(x, medium.quarters(0), 2)


def test_structured_is_the_product_of_its_factors():
    medium = StructuredMedium(100, 300, seed=5)
    h = hadamard(128)
    for block, stop in ((0, 128), (2, 44)):
        d1, d2, d3 = (np.diag(1j**q) for q in medium.quarters(block).astype(int))
        matrix = medium.scale * (h @ d3 @ h @ d2 @ h @ d1)[:stop, :100]
        field = medium.field(torch.eye(100), block * 128, block * 128 + stop)
        assert np.allclose((field[0] + 1j * field[1]).numpy().T, matrix, atol=1e-6)


@pytest.mark.parametrize("kind", MEDIA.values())
def test_the_adjoint_is_the_transpose(kind):
    medium = kind(70, 300, seed=0)
    draw = torch.Generator().manual_seed(1)
    x, g = torch.randn(6, 70, generator=draw), torch.randn(2, 6, 170, generator=draw)
    forward = (medium.field(x, 130, 300).double() * g).sum(dim=(0, 2))
    back = (x.double() * medium.adjoint(g, 130, 300)).sum(dim=1)
    assert torch.allclose(forward, back, rtol=1e-4, atol=1e-4)


def test_more_than_the_memory_is_refused_with_the_remedy():
    with pytest.raises(DeviceInputError, match=r'GiB.*medium="structured", or "streamed"'):
        SimulatedOPU(1_000_000, 1_000_000)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(DeviceInputError, match="a seed is an integer from 0"):
        StreamedMedium(4, 4, seed)
