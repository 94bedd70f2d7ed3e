"""Language modelling: predict the next symbol of a text, by characters or bytes. Loss in nats per symbol."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from opu_dfa.config import Count, Fraction, settings
from opu_dfa.errors import DataError


@settings
class TextSettings:
    """text: a UTF-8 file, or None for the text of CPython's documentation topics; level: "char" or "byte";
    context: symbols a window; validation_fraction: the end of the text that is held out."""

    name: Literal["text"]
    text: str | None
    level: Literal["char", "byte"]
    context: Count
    validation_fraction: Fraction


def default_corpus() -> str:
    """CPython's own documentation topics: about 465,000 characters, on every machine that has Python."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        DataError: no such file, not a file, empty, or not UTF-8 (with the place of the first bad byte).
    """
    path = Path(path).expanduser()
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"task.text={path} cannot be read: {error.strerror}. Name a text file, or leave task.text out to train on "
            "Python's documentation."
        ) from error
    if not raw:
        raise DataError(f"task.text={path} is empty. Name a file with text in it.")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"task.text={path} is not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start}. Convert it "
            "first, for example with `iconv -f latin1 -t utf-8`."
        ) from error


class Alphabet:
    """Text to symbols and back: the characters that occur, or the 256 bytes of UTF-8.

    >>> letters = Alphabet("abba", level="char")
    >>> letters.encode("ab"), letters.decode(letters.encode("ab"))
    (tensor([0, 1]), 'ab')
    """

    def __init__(self, text: str, level: str) -> None:
        self.level = level
        self.symbols = sorted(set(text)) if level == "char" else [chr(i) for i in range(256)]
        self._index = {symbol: i for i, symbol in enumerate(self.symbols)}

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> Tensor:
        if self.level == "byte":
            return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).long()
        return torch.tensor([self._index[symbol] for symbol in text])

    def decode(self, symbols: Tensor) -> str:
        if self.level == "byte":
            return bytes(symbols.tolist()).decode("utf-8", errors="replace")
        return "".join(self.symbols[i] for i in symbols.tolist())


class TextTask:
    """Windows of a text for training, and fixed windows of its held-out end for validation.

    Inputs are int64 `(batch, context)`, targets the same windows one symbol later.

    Raises:
        DataError: the text is missing, empty, not UTF-8, or shorter than a window in either part.
    """

    def __init__(self, chosen: TextSettings) -> None:
        text = read_text(chosen.text) if chosen.text else default_corpus()
        self.unit = f"nats per {'character' if chosen.level == 'char' else 'byte'}"
        self.title = Path(chosen.text).name if chosen.text else "CPython's documentation topics"
        self.context = chosen.context
        self.alphabet = Alphabet(text, chosen.level)
        self.n_outputs = len(self.alphabet)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
        symbols = self.alphabet.encode(text)
        split = round(len(symbols) * (1 - chosen.validation_fraction))
        self.training, self.held_out = symbols[:split], symbols[split:]
        for part, found in (("training", len(self.training)), ("validation", len(self.held_out))):
            if found < self.context + 1:
                raise DataError(
                    f"the text is too short: its {part} part has {found} symbols, and a window needs "
                    f"{self.context + 1}. Use a longer text, or a smaller task.context."
                )

    @property
    def n_symbols_text(self) -> int:
        """Symbols in the whole text."""
        return len(self.training) + len(self.held_out)

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`size` training windows at random places."""
        starts = torch.randint(len(self.training) - self.context, (size,), generator=generator)
        return _windows(self.training, starts, self.context)

    def validation(self, size: int, at_most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The held-out windows, end to end, in batches of `size`; or about `at_most` of them evenly spread."""
        starts = torch.arange(0, len(self.held_out) - self.context, self.context)
        if at_most is not None and at_most < len(starts):
            starts = starts[torch.linspace(0, len(starts) - 1, at_most).long()]
        for some in starts.split(size):
            yield _windows(self.held_out, some, self.context)

    @staticmethod
    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats per symbol."""
        return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten())

    def prompt(self) -> Tensor:
        """The start of the held-out text, `(1, context / 2)`: what generated samples continue."""
        return self.held_out[None, : max(1, self.context // 2)]


def _windows(symbols: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    window = symbols[starts[:, None] + torch.arange(context + 1)]
    return window[:, :-1], window[:, 1:]
