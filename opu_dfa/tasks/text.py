"""Language modelling: predict the next character, byte or byte pair of a text. Loss in nats per symbol."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opu_dfa.config import BelowOne, Count, Fraction, settings
from opu_dfa.errors import ConfigError, DataError
from opu_dfa.tasks.data import VARIABLE, DataSettings
from opu_dfa.tasks.task import Batch, Split, Task, error_of_uniform, evenly


@settings
class Settings:
    """text: a UTF-8 file, or None for the text of CPython's documentation topics; test: another file to test on, or
    None for the end of the text; level: "char", "byte", or "bpe" with a `vocabulary` learned from the training part;
    context: symbols a window; validation_fraction, test_fraction: the ends of the text that are held out."""

    name: Literal["text"]
    text: str | None
    test: str | None
    level: Literal["char", "byte", "bpe"]
    vocabulary: Count
    context: Count
    validation_fraction: Fraction
    test_fraction: BelowOne

    def __post_init__(self) -> None:
        if self.test and self.test_fraction:
            raise ConfigError(f"task.test={self.test} is the test text: set task.test_fraction=0")


def default_corpus() -> str:
    """CPython's own documentation topics: about 465,000 characters, on every machine that has Python."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def read_text(name: str, data: DataSettings) -> str:
    """The text of a UTF-8 file, looked for as it is named and then in the data folder.

    Raises:
        DataError: no such file, not a file, empty, or not UTF-8 (with the place of the first bad byte).
    """
    path = Path(name).expanduser()
    if not path.exists() and (data.folder / name).is_file():
        path = data.folder / name
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"task.text={path} cannot be read: {error.strerror}. Name a text file, here or in the data folder "
            f"{data.folder} (data.root=FOLDER or {VARIABLE} names another), or leave task.text out to train "
            "on Python's documentation."
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


class Alphabet(Protocol):
    """Text to symbols and back."""

    def __len__(self) -> int: ...

    def encode(self, text: str) -> Tensor: ...

    def decode(self, symbols: Tensor) -> str: ...


class Characters:
    """The characters that occur.

    >>> letters = Characters("abba")
    >>> letters.encode("ab"), letters.decode(letters.encode("ab"))
    (tensor([0, 1]), 'ab')
    """

    def __init__(self, text: str) -> None:
        self.symbols = sorted(set(text))
        self._index = {symbol: i for i, symbol in enumerate(self.symbols)}

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> Tensor:
        return torch.tensor([self._index[symbol] for symbol in text])

    def decode(self, symbols: Tensor) -> str:
        return "".join(self.symbols[i] for i in symbols.tolist())


class Bytes:
    """The 256 bytes of UTF-8."""

    def __len__(self) -> int:
        return 256

    def encode(self, text: str) -> Tensor:
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).long()

    def decode(self, symbols: Tensor) -> str:
        return bytes(symbols.tolist()).decode("utf-8", errors="replace")


class BytePairs:
    """Byte-level byte pair encoding (Sennrich et al. 2016) with at most `vocabulary` symbols, learned from a text.

    >>> pairs = BytePairs("low lower lowest " * 9, vocabulary=270)
    >>> len(pairs.encode("lower lowest")) < 12, pairs.decode(pairs.encode("lower lowest"))
    (True, 'lower lowest')
    """

    def __init__(self, text: str, vocabulary: int) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        self._tokenizer = Tokenizer(models.BPE())
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        self._tokenizer.train_from_iterator([text], trainer)

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> Tensor:
        return torch.tensor(self._tokenizer.encode(text).ids)

    def decode(self, symbols: Tensor) -> str:
        return self._tokenizer.decode(symbols.tolist())


class TextTask(Task):
    """Windows of a text for training, and fixed windows of its held-out end for validation and test.

    Inputs are int64 `(batch, context)`, targets the same windows one symbol later.

    Raises:
        DataError: the text is missing, empty, not UTF-8, or shorter than a window in any part.
    """

    item = "tokens"

    def __init__(self, chosen: Settings, data: DataSettings) -> None:
        text = read_text(chosen.text, data) if chosen.text else default_corpus()
        other = read_text(chosen.test, data) if chosen.test else ""
        self.unit = f"nats per {_UNITS[chosen.level]}"
        self.title = Path(chosen.text).name if chosen.text else "CPython's documentation topics"
        self.context = self.items_per_example = chosen.context
        self.fingerprint = hashlib.sha256((text + other).encode()).hexdigest()[:16]
        self.alphabet, parts = _symbols(chosen, text, other)
        self.n_outputs = len(self.alphabet)
        self.training, self.held_out, self.tested = parts
        self.splits = ("validation", "test") if len(self.tested) else ("validation",)
        for name, part in zip(("training", "validation", "test"), parts, strict=True):
            if len(part) < self.context + 1 and (name != "test" or len(part)):
                raise DataError(
                    f"the text is too short: its {name} part has {len(part)} symbols, and a window needs "
                    f"{self.context + 1}. Use a longer text, or a smaller task.context."
                )

    @property
    def n_symbols_text(self) -> int:
        """Symbols in all of the text."""
        return len(self.training) + len(self.held_out) + len(self.tested)

    @property
    def description(self) -> str:
        return f"Text: {self.title}, {self.n_symbols_text:,} symbols, alphabet of {self.n_outputs}"

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """`size` training windows at random places."""
        starts = torch.randint(len(self.training) - self.context, (size,), generator=generator)
        return _windows(self.training, starts, self.context)

    def examples(self, split: Split, size: int, at_most: int | None = None) -> Iterator[Batch]:
        """The split's windows, end to end, in batches of `size`; or about `at_most` of them evenly spread."""
        part = self.held_out if split == "validation" else self.tested
        starts = torch.arange(0, len(part) - self.context, self.context)
        for some in starts[evenly(len(starts), at_most)].split(size):
            yield _windows(part, some, self.context)

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy in nats per symbol."""
        return F.cross_entropy(out.flatten(0, -2).float(), y.flatten())

    def error_of_target(self, y: Tensor) -> Tensor:
        return error_of_uniform(y, self.n_outputs)

    def text_sample(self, model: nn.Module, generator: torch.Generator, length: int) -> dict[str, str] | None:
        """The start of the held-out text, half a window, and what the model makes of it at temperature 0.8."""
        prompt = self.held_out[None, : max(1, self.context // 2)]
        where = next(model.parameters()).device
        text = model.generate(prompt.to(where), length, generator)[0].cpu()  # type: ignore[operator]
        n = prompt.shape[1]
        return {"prompt": self.alphabet.decode(text[:n]), "continuation": self.alphabet.decode(text[n:])}


_UNITS = {"char": "character", "byte": "byte", "bpe": "token"}


def _symbols(chosen: Settings, text: str, other: str) -> tuple[Alphabet, tuple[Tensor, Tensor, Tensor]]:
    """The alphabet, and the training, validation and test parts as symbols."""
    held_out = chosen.validation_fraction + chosen.test_fraction
    if held_out >= 1:
        raise ConfigError(f"task.validation_fraction + task.test_fraction = {held_out:g} leaves nothing to train on")
    alphabet: Alphabet
    if chosen.level == "bpe":  # learned from what is trained on, and nothing else
        alphabet = BytePairs(text[: round(len(text) * (1 - held_out))], chosen.vocabulary)
    else:
        alphabet = Characters(text + other) if chosen.level == "char" else Bytes()
    symbols = alphabet.encode(text)
    n_training = round(len(symbols) * (1 - held_out))
    n_seen = round(len(symbols) * (1 - chosen.test_fraction))
    tested = alphabet.encode(other) if other else symbols[n_seen:]
    return alphabet, (symbols[:n_training], symbols[n_training:n_seen], tested)


def _windows(symbols: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    window = symbols[starts[:, None] + torch.arange(context + 1)]
    return window[:, :-1], window[:, 1:]


def build(chosen: Settings, data: DataSettings) -> TextTask:
    """The task of the settings."""
    return TextTask(chosen, data)
