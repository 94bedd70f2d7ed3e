"""Compiled inner loops: random words, table-lookup products and the Walsh-Hadamard transform.

Every kernel is exact or follows one fixed order of operations, so its bits are the same on any machine, for any tile,
batch or number of threads. They run on one thread without the interpreter lock; callers split the work.

Products of binary rows use the method of the four Russians: the 16 sums of four int8 rows of the matrix are tabulated
once per tile of 64 outputs, and each pattern then adds one table row per four mirrors. That is a quarter of an
addition per multiply-accumulate, on int16 lanes that hold 256 mirrors before they overflow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

LANES = 64  # outputs a tile
_BITS, _GROUPS = 4, 8  # mirrors a table, tables held at once: 8 tables of 16 x 64 int16 fill half of a 32 KiB L1
SLICE = _BITS * _GROUPS  # mirrors a pass; inputs are padded to a multiple
_PASSES = 32767 // (127 * SLICE)  # passes before an int16 lane may overflow
_L1_FLOATS = 4096


def compiled(function: Callable[..., Any]) -> Any:
    """A function as machine code, kept on disk where that can be; divisions by zero are IEEE's, so loops vectorise."""
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # nowhere to keep the compiled code
        return numba.njit(nogil=True, error_model="numpy")(function)


@intrinsic
def _high_product(typing_context, a, b):  # type: ignore[no-untyped-def]
    """The upper 64 bits of a 64 x 64-bit product."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(x, wide) for x in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def _add_table_rows(typing_context, sums, tables, indices):  # type: ignore[no-untyped-def]
    """sums[:] += Σ_g tables[g, indices[g], :], all three given as addresses."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        lanes, word, byte = ir.VectorType(ir.IntType(16), LANES), ir.IntType(64), ir.IntType(8)
        place = builder.inttoptr(arguments[0], lanes.as_pointer())
        total = builder.load(place, align=2)
        for group in range(_GROUPS):
            where = builder.inttoptr(builder.add(arguments[2], ir.Constant(word, group)), byte.as_pointer())
            row = builder.mul(builder.zext(builder.load(where), word), ir.Constant(word, LANES * 2))
            start = builder.add(arguments[1], ir.Constant(word, group * 2**_BITS * LANES * 2))
            source = builder.inttoptr(builder.add(start, row), lanes.as_pointer())
            total = builder.add(total, builder.load(source, align=2))
        builder.store(total, place, align=2)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), generate


@intrinsic
def _butterfly16(typing_context, address):  # type: ignore[no-untyped-def]
    """The Walsh-Hadamard transform of 16 floats in place."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        lanes, index = ir.VectorType(ir.FloatType(), 16), ir.VectorType(ir.IntType(32), 16)
        place = builder.inttoptr(arguments[0], lanes.as_pointer())
        x = builder.load(place, align=4)
        for h in (1, 2, 4, 8):
            partner = builder.shuffle_vector(x, x, ir.Constant(index, [i ^ h for i in range(16)]))
            negative = builder.fsub(partner, x)
            positive = builder.fadd(partner, x)
            pick = ir.Constant(index, [i + 16 if i & h else i for i in range(16)])
            x = builder.shuffle_vector(positive, negative, pick)
        builder.store(x, place, align=4)
        return context.get_dummy_value()

    return types.void(types.intp), generate


@compiled
def _philox(counter, stream, key):  # type: ignore[no-untyped-def]
    """Four 64-bit words of Philox-4x64-10 (Salmon et al. 2011) at the counter (counter, stream, 0, 0)."""
    c0, c1, c2, c3 = np.uint64(counter), np.uint64(stream), np.uint64(0), np.uint64(0)
    k0, k1 = np.uint64(key), np.uint64(0)
    m0, m1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
    for _ in range(10):
        high0, low0 = _high_product(m0, c0), m0 * c0
        high1, low1 = _high_product(m1, c2), m1 * c2
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 += np.uint64(0x9E3779B97F4A7C15)
        k1 += np.uint64(0xBB67AE8584CAA73B)
    return c0, c1, c2, c3


@compiled
def fill_entries(out, key, n_features, part, first_row, table):  # type: ignore[no-untyped-def]
    """out[feature, r] = table[word part·n_features + feature of row first_row + r]: one tile of one part of R.

    out: int8 `(padded features, rows)`; table: int8 `(65536,)`; part: 0 the real, 1 the imaginary part.
    """
    rows = out.shape[1]
    low = np.uint64(65535)
    per_row = (2 * n_features + 15) // 16
    start, stop = part * n_features, (part + 1) * n_features
    for block in range(start // 16, (stop + 15) // 16):  # rows inside, so that sixteen lines of the tile stay cached
        first = block * 16 - start
        whole = first >= 0 and first + 16 <= n_features
        for row in range(rows):
            feature = first
            for word in _philox((first_row + row) * per_row + block + 1, 0, key):
                if whole:
                    out[feature, row] = table[word & low]
                    out[feature + 1, row] = table[(word >> np.uint64(16)) & low]
                    out[feature + 2, row] = table[(word >> np.uint64(32)) & low]
                    out[feature + 3, row] = table[word >> np.uint64(48)]
                else:
                    for k in range(4):
                        if 0 <= feature + k < n_features:
                            out[feature + k, row] = table[(word >> np.uint64(16 * k)) & low]
                feature += 4


@compiled
def fill_words(out, key, first_stream, streams_apart, first, table):  # type: ignore[no-untyped-def]
    """out[i, j] = table[16-bit word first + j of stream first_stream + i · streams_apart]; out `(rows, columns)`."""
    rows, columns = out.shape
    low = np.uint64(65535)
    for i in range(rows):
        stream = first_stream + i * streams_apart
        for block in range(first // 16, (first + columns + 15) // 16):
            j = block * 16 - first
            for word in _philox(block + 1, stream, key):
                if j >= 0 and j + 4 <= columns:
                    out[i, j] = table[word & low]
                    out[i, j + 1] = table[(word >> np.uint64(16)) & low]
                    out[i, j + 2] = table[(word >> np.uint64(32)) & low]
                    out[i, j + 3] = table[word >> np.uint64(48)]
                else:
                    for k in range(4):
                        if 0 <= j + k < columns:
                            out[i, j + k] = table[(word >> np.uint64(16 * k)) & low]
                j += 4


@compiled
def _tabulate(rows, table):  # type: ignore[no-untyped-def]
    """table[v] = Σ of the rows whose bit is set in v."""
    for j in range(LANES):
        table[0, j] = 0
    for bit in range(_BITS):
        for v in range(1 << bit):
            for j in range(LANES):
                table[(1 << bit) + v, j] = table[v, j] + rows[bit, j]


@compiled
def binary_product(indices, entries, out):  # type: ignore[no-untyped-def]
    """out = patterns @ entries for one tile.

    indices: uint8 `(padded features / 32, batch, 8)`, four mirrors each; entries: int8 `(padded features, 64)`;
    out: int32 `(batch, 64)`.
    """
    passes, batch, _ = indices.shape
    tables = np.empty((_GROUPS, 2**_BITS, LANES), np.int16)
    sums = np.empty((batch, LANES), np.int16)
    out[:] = 0
    for first in range(0, passes, _PASSES):
        sums[:] = 0
        for p in range(first, min(first + _PASSES, passes)):
            for g in range(_GROUPS):
                start = p * SLICE + g * _BITS
                _tabulate(entries[start : start + _BITS], tables[g])
            where = indices[p].ctypes.data
            for b in range(batch):
                _add_table_rows(sums.ctypes.data + b * LANES * 2, tables.ctypes.data, where + b * _GROUPS)
        for b in range(batch):
            for j in range(LANES):
                out[b, j] += sums[b, j]


@compiled
def scale_into(out, sums, first, scale):  # type: ignore[no-untyped-def]
    """out = scale · sums[:, first : first + width], each sum rounded to float32 first; out `(batch, width)`."""
    batch, width = out.shape
    for b in range(batch):
        for j in range(width):
            out[b, j] = np.float32(sums[b, first + j]) * scale


@compiled
def pack(patterns, indices):  # type: ignore[no-untyped-def]
    """Four mirrors to an index: uint8 `(batch, n)` of {0, 1} -> `(padded n / 32, batch, 8)`, for `binary_product`."""
    batch, n = patterns.shape
    indices[:] = 0
    for b in range(batch):
        for i in range(n):
            indices[i // SLICE, b, i % SLICE // _BITS] |= patterns[b, i] << np.uint8(i % _BITS)


@compiled
def _stages(x, h):  # type: ignore[no-untyped-def]
    """The butterflies of stride h, 2h, … of the whole vector, two strides a pass."""
    n = x.size
    while 4 * h <= n:
        for i in range(0, n, 4 * h):
            a, b, c, d = x[i : i + h], x[i + h : i + 2 * h], x[i + 2 * h : i + 3 * h], x[i + 3 * h : i + 4 * h]
            for j in range(h):
                sum0, difference0 = a[j] + b[j], a[j] - b[j]
                sum1, difference1 = c[j] + d[j], c[j] - d[j]
                a[j], b[j] = sum0 + sum1, difference0 + difference1
                c[j], d[j] = sum0 - sum1, difference0 - difference1
        h *= 4
    if 2 * h <= n:
        for i in range(0, n, 2 * h):
            a, b = x[i : i + h], x[i + h : i + 2 * h]
            for j in range(h):
                a[j], b[j] = a[j] + b[j], a[j] - b[j]


@compiled
def walsh_hadamard(x):  # type: ignore[no-untyped-def]
    """The unnormalised Walsh-Hadamard transform of a float32 vector in place, its length a power of two from 16."""
    n = x.size
    block = min(n, _L1_FLOATS)
    for start in range(0, n, block):
        part = x[start : start + block]
        for i in range(0, block, 16):
            _butterfly16(part[i:].ctypes.data)
        _stages(part, 16)
    _stages(x, block)


@compiled
def walsh_hadamard_rows(x):  # type: ignore[no-untyped-def]
    """`walsh_hadamard` of every row of `(rows, n)`."""
    for row in range(x.shape[0]):
        walsh_hadamard(x[row])


@compiled
def structured_product(out, x, quarters, start, scale):  # type: ignore[no-untyped-def]
    """Rows start … of scale · H D₃ H D₂ H D₁ x; quarters: int8 `(3, N)`, the phases of D in quarter turns.

    D₁ turns by 0 or a half only, so the first transform is real. x `(batch, n)`; out float32 `(parts, batch, rows)`.
    """
    parts, batch, rows = out.shape
    n, padded = x.shape[1], quarters.shape[1]
    cosine, sine = np.array([1, 0, -1, 0], np.float32), np.array([0, 1, 0, -1], np.float32)
    real, imaginary = np.empty(padded, np.float32), np.empty(padded, np.float32)
    for b in range(batch):
        for i in range(n):
            real[i] = x[b, i] * cosine[quarters[0, i]]
        real[n:] = 0
        walsh_hadamard(real)
        for i in range(padded):
            value, quarter = real[i], quarters[1, i]
            real[i], imaginary[i] = value * cosine[quarter], value * sine[quarter]
        walsh_hadamard(real)
        walsh_hadamard(imaginary)
        for i in range(padded):
            re, im, c, s = real[i], imaginary[i], cosine[quarters[2, i]], sine[quarters[2, i]]
            real[i], imaginary[i] = re * c - im * s, re * s + im * c
        walsh_hadamard(real)
        for j in range(rows):
            out[0, b, j] = real[start + j] * scale
        if parts == 2:
            walsh_hadamard(imaginary)
            for j in range(rows):
                out[1, b, j] = imaginary[start + j] * scale
