"""What a Transformer costs by its sizes: parameters, products, bytes handed on and bytes kept, in closed form.

A token meets in each block, of residual width d, hidden width h and context T, the products (multiply-adds)

    qkv 3d² + out d² + up dh + down dh,  and in attention  2Td.

FLOPs are two a multiply-add. The whole square of attention is counted, as PyTorch's counter does; a kernel that skips
the masked half does less. Norms, nonlinearities and the embedding's lookup are not counted: they are no products.
"""

from __future__ import annotations

from dataclasses import dataclass

from opu_dfa.errors import ConfigError


@dataclass(frozen=True)
class Work:
    """FLOPs of one token.

    forward; input_grad: gradients of activations, attention's included; weight_grad; project: of the output error, by
    digital feedback.
    """

    forward: float
    input_grad: float
    weight_grad: float
    project: float = 0.0

    @property
    def total(self) -> float:
        return self.forward + self.input_grad + self.weight_grad + self.project


@dataclass(frozen=True)
class Sizes:
    """A GPT, `opu_dfa.models.gpt`, with norms in front; hidden is 4 · width where it is None.

    >>> gpt3 = Sizes(n_blocks=96, width=12288, context=2048, n_symbols=50257)
    >>> f"{gpt3.parameters:.3g}"
    '1.75e+11'
    >>> dfa, backprop = gpt3.dfa(digital=False).total, gpt3.backprop().total
    >>> f"{dfa / backprop:.3f}"  # a block's 33/36, diluted by attention and head
    '0.920'
    """

    n_blocks: int
    width: int
    context: int
    n_symbols: int
    hidden: int | None = None

    def __post_init__(self) -> None:
        for name in ("n_blocks", "width", "context", "n_symbols"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def _hidden(self) -> int:
        return 4 * self.width if self.hidden is None else self.hidden

    @property
    def block_parameters(self) -> int:
        d, h = self.width, self._hidden
        return 4 * d * d + 2 * d * h + 4 * d + h  # biases of qkv, up and down; the norms have none

    @property
    def parameters(self) -> int:
        """Of blocks, embeddings, final norm and a head of its own."""
        return self.n_blocks * self.block_parameters + (2 * self.n_symbols + self.context + 2) * self.width

    def backprop(self) -> Work:
        """Exact gradients. Each product has an input and a weight gradient; attention's two factors are inputs."""
        d = self.width
        linear = self.n_blocks * 2 * (4 * d * d + 2 * d * self._hidden) + 2 * self.n_symbols * d
        attention = self.n_blocks * 4 * self.context * d
        return Work(linear + attention, linear + 2 * attention, linear)

    def dfa(self, digital: bool = True) -> Work:
        """One tap a block, error at the output, one matrix for all taps.

        The input gradient of qkv falls away in every block but the first, behind which the embedding learns; `digital`
        adds the projection of an error as wide as the alphabet to a signal of the residual width.
        """
        exact = self.backprop()
        saved = (self.n_blocks - 1) * 2 * 3 * self.width**2
        project = 2 * self.n_symbols * self.width if digital else 0
        return Work(exact.forward, exact.input_grad - saved, exact.weight_grad, project)

    def stored(self, recompute: bool, cut: bool) -> int:
        """Numbers kept of a token from one block's forward to its backward pass.

        Inputs of the four linear maps 2d + (d + h), of attention 3d, of the second norm and of the nonlinearity d + h;
        where the block's input asks for a gradient also that of the first norm, d. Attention's and the norms'
        statistics, a few numbers a token, are left out. With `recompute` the block's input alone.
        """
        if recompute:
            return self.width
        return 7 * self.width + 2 * self._hidden + (0 if cut else self.width)


def shaped(parameters: float, n_stages: int, context: int, n_symbols: int, aspect: int = 128) -> Sizes:
    """A GPT whose blocks hold about so many parameters, in a multiple of `n_stages` blocks of equal width.

    As deep as width / n_blocks = aspect makes it, or as there are stages where these are more.

    >>> shaped(175e9, 8, 2048, 50257)
    Sizes(n_blocks=96, width=12325, context=2048, n_symbols=50257, hidden=None)
    """
    natural = (parameters / (12 * aspect**2)) ** (1 / 3)
    n_blocks = max(1, round(natural / n_stages)) * n_stages
    return Sizes(n_blocks, max(1, round((parameters / (12 * n_blocks)) ** 0.5)), context, n_symbols)
