"""The defended classifier: its heads, that samples do not see each other, and that a checkpoint is the whole of it."""

import copy
import inspect
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hardware import DeviceFault, SimulatedOPU
from opu_dfa.defense.model import HEADS, OpticalDefense, binarised, vgg_features
from opu_dfa.dfa import GaussianFeedback
from opu_dfa.errors import ConfigError, DataError

SHAPE = (1, 8, 8)


def build(head="optical", seed=0, preset="ideal"):
    opu = SimulatedOPU(32, 100, seed=5, preset=preset)
    return OpticalDefense(vgg_features([[4], [8]], (1, 8, 8), seed), 10, opu, head, image_shape=(1, 8, 8), seed=seed)


def images(n=20):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def test_the_optical_head_is_the_normalised_intensity_of_the_binarised_hidden_state():
    model = build().eval()
    h = model.hidden(images())
    bits = torch.stack([row > row.mean() for row in h]).float()
    real, imaginary = model.opu.speckle(bits)
    step = model.opu.intensity_per_count  # ideal camera: rounded to whole counts, at most 255
    counts = ((real**2 + imaginary**2) / step).round().clamp(max=255)
    y = counts * step
    expected = model.readout((y - model.norm.running_mean) / (model.norm.running_var + model.norm.eps).sqrt())
    torch.testing.assert_close(model(images()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("head", "seen"),
    [
        ("plain", lambda opu, h: h),
        ("sign", lambda opu, h: binarised(h)),
        ("projection", lambda opu, h: opu.ideal(h)),
        ("intensity", lambda opu, h: opu.speckle(h).square().sum(0)),
    ],
)
def test_an_ablation_leaves_out_what_it_says(head, seen):
    model = build(head).eval()
    h = model.hidden(images())
    expected = model.read(seen(model.opu or SimulatedOPU(1, 1), h.detach()))
    torch.testing.assert_close(model(images()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_a_sample_alone_has_the_logits_it_has_in_a_batch(head):
    model = build(head)
    model(images(200))  # running statistics away from 0 and 1
    model.eval()
    x = images()
    alone = torch.cat([model(x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(alone, model(x), rtol=1e-4, atol=1e-4)


def test_binarisation_looks_at_one_sample_only():
    h = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    shifted = h + torch.tensor([0.0, 1e3, -7.0, 0.5, 2.0, -1e3])[:, None]
    assert torch.equal(binarised(h)[0], binarised(h[:1])[0])
    assert (binarised(shifted) != binarised(h)).float().mean() < 0.01  # rounding of values shifted by 1000
    assert torch.equal(binarised(torch.ones(2, 5)), torch.zeros(2, 5))


def test_the_true_gradient_through_a_binarisation_does_not_exist_but_through_a_projection_it_does():
    for head in HEADS:
        x = images().requires_grad_()
        h = build(head).hidden(x)
        logits = build(head).eval().head(h)
        found = torch.autograd.grad(logits.sum(), h, allow_unused=True)[0]
        assert (found is None) == (head in ("sign", "optical"))


def test_the_feedback_matrix_is_in_the_state_dict_and_another_draw_is_undone_by_it():
    model, other = build(seed=0), build(seed=1)
    assert not torch.equal(model.feedback.matrix, other.feedback.matrix)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.feedback.matrix, other.feedback.matrix)


def test_a_checkpoint_gives_the_same_logits_bit_for_bit_in_a_new_process(tmp_path):
    """Noise included: the device's random streams are part of it."""
    presets = ["ideal", "noisy-8bit"]
    for preset in presets:
        model = build(preset=preset)
        model(images(200))
        save_file(model.eval().state_dict(), tmp_path / f"{preset}.safetensors")
        answers = {"logits": model(images()).detach(), "matrix": model.feedback.matrix}
        save_file(answers, tmp_path / f"{preset}.answers.safetensors")
    code = f"""
import torch
from pathlib import Path
from safetensors.torch import load_file
from hardware import SimulatedOPU
from opu_dfa.defense.model import OpticalDefense, vgg_features
{inspect.getsource(build)}
{inspect.getsource(images)}
for preset in {presets}:
    model = build(seed=9, preset=preset).eval()
    model.load_state_dict(load_file(Path({str(tmp_path)!r}) / f"{{preset}}.safetensors"))
    answers = load_file(Path({str(tmp_path)!r}) / f"{{preset}}.answers.safetensors")
    assert torch.equal(model.feedback.matrix, answers["matrix"])
    assert torch.equal(model(images()), answers["logits"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_of_another_medium_is_refused():
    features = vgg_features([[4], [8]], SHAPE)
    other = OpticalDefense(features, 10, SimulatedOPU(32, 100, seed=6), image_shape=SHAPE)
    with pytest.raises(DeviceFault, match="another matrix"):
        other.load_state_dict(build().state_dict())


def test_normalisation_of_pixels_is_inside_the_model():
    model = OpticalDefense(nn.Flatten(), 2, None, "plain", n_mirrors=4, image_shape=(2, 1, 1), mean=(0.1, 0.3), std=0.5)
    x = torch.tensor([0.6, 0.8]).view(1, 2, 1, 1)
    expected = model.linear(torch.tensor([[1.0, 1.0]])).detach()
    standardised = (expected - expected.mean()) / (expected.var(correction=0) + 1e-5).sqrt()  # layer_norm's eps
    torch.testing.assert_close(model.hidden(x), standardised)


def test_hidden_rows_are_standardised_so_that_dfa_cannot_raise_their_scale():
    model = build("sign")
    x = torch.rand(5, *model.image_shape, generator=torch.Generator().manual_seed(0))
    before = model.hidden(x)
    with torch.no_grad():
        model.linear.weight.mul_(7)
        model.linear.bias.mul_(7)
    torch.testing.assert_close(model.hidden(x), before, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(before.mean(1), torch.zeros(5), rtol=0, atol=1e-6)


def test_a_copy_shares_the_device_and_nothing_else():
    for head in ("optical", "intensity", "projection"):
        model = build(head)
        copied = copy.deepcopy(model)
        assert copied.opu is model.opu
        assert copied.readout.weight.data_ptr() != model.readout.weight.data_ptr()


def test_drawing_a_model_uses_its_seed_alone():
    first = build(seed=3).state_dict()
    torch.manual_seed(1)
    second = build(seed=3).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first if name != "_extra_state")
    assert not torch.equal(first["linear.weight"], build(seed=4).state_dict()["linear.weight"])


def test_any_network_of_torchvision_can_give_the_features():
    from torchvision.models import resnet18

    network = resnet18()
    network.fc = nn.Identity()
    network.requires_grad_(False)
    model = OpticalDefense(network, 10, SimulatedOPU(16, 20))
    assert model.linear.in_features == 512
    model.train()
    before = network.bn1.running_mean.clone()
    model(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(network.bn1.running_mean, before)  # frozen
    assert model.norm.training


def test_vgg16_has_the_thirteen_convolutions_of_the_paper():
    vgg = vgg_features("vgg16")
    assert [m.out_channels for m in vgg.modules() if isinstance(m, nn.Conv2d)] == (
        [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "optic"}, "head is one of"),
        ({"n_classes": 1}, "at least 2 classes"),
        ({"opu": None}, "needs a device"),
        ({"opu": "simulated"}, "an open device"),
        ({"opu": None, "head": "plain"}, "n_mirrors >= 1"),
        ({"n_mirrors": 31}, "shows 32 features"),
        ({"std": 0.0}, "std is positive"),
        ({"mean": (0.1, 0.2)}, "one for each of 1 channels"),
        ({"feedback": GaussianFeedback(9, 32)}, "wanted n_classes -> n_mirrors = 10 -> 32"),
        ({"image_shape": (2, 8, 8)}, "do not take images"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, message):
    given = {"features": vgg_features([[4]], SHAPE), "n_classes": 10, "opu": SimulatedOPU(32, 10), "image_shape": SHAPE}
    with pytest.raises(ConfigError, match=message):
        OpticalDefense(**given | change)


def test_unknown_features_and_images_of_another_shape_are_named():
    with pytest.raises(ConfigError, match="unknown features"):
        vgg_features("vgg17")
    with pytest.raises(ConfigError, match="halves them"):
        vgg_features("vgg16", SHAPE)
    for shape in ((8, 8), (1, 8, 8), (4, 3, 8, 8)):
        with pytest.raises(DataError, match="images are"):
            build()(torch.zeros(shape))
