"""The GPT: causal, seeded, as many parameters as its formula."""

import pytest
import torch

from opu_dfa.models.gpt import GPT

SIZES = {"n_symbols": 11, "context": 8, "n_blocks": 2, "width": 16, "n_heads": 2}


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(11, (3, 8), generator=torch.Generator().manual_seed(seed))


def test_no_logit_depends_on_a_later_token():
    model, x = GPT(**SIZES), tokens()
    changed = x.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    assert torch.allclose(model(x)[:, :5], model(changed)[:, :5], atol=1e-6)
    assert not torch.allclose(model(x)[:, 5], model(changed)[:, 5], atol=1e-6)


def test_parameter_count():
    width, block = 16, 12 * 16**2 + 3 * 16 + 4 * 16 + 16  # qkv, out, up, down; the biases of qkv, up and down
    expected = 11 * width + 8 * width + 2 * block + 2 * width + 11 * width
    assert sum(p.numel() for p in GPT(**SIZES).parameters()) == expected
    assert sum(p.numel() for p in GPT(**SIZES, tie_weights=True).parameters()) == expected - 11 * width


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_s_results_out():
    torch.manual_seed(1)
    a = GPT(**SIZES, seed=5)
    torch.manual_seed(2)
    b = GPT(**SIZES, seed=5)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_untrained_logits_are_near_uniform():
    logits = GPT(**SIZES)(tokens())
    assert torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens(1).flatten()).item() == pytest.approx(
        torch.tensor(11.0).log().item(), abs=0.1
    )


def test_generation_continues_the_prompt_and_is_seeded():
    model = GPT(**SIZES)
    first, second = (model.generate(tokens(), 20, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (3, 28)
    assert torch.equal(first[:, :8], tokens())


@pytest.mark.parametrize(("change", "says"), [({"n_heads": 3}, "width 16 and n_heads 3"), ({"n_blocks": 0}, "got 0")])
def test_sizes_that_do_not_fit_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        GPT(**SIZES | change)
