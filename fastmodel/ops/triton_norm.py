"""The norms' passes in Triton; formulas and the layout of stats stand in norm.py.

Bytes a value of b bytes: forward reads x and writes out, 2 b (4 b with a residual); backward reads grad and x
and writes grad_x, 3 b (4 b where a gradient comes in for the sum). 7 and 14 FLOPs a value: memory bounds both
passes.

Rows that fit into registers are read once, several of the short ones by one program. Longer ones are swept
in blocks, the second time out of L2, which stays near the same floor.

Sums over rows, for the parameters' gradients, take no atomics: each program sums the rows that are its own,
in registers, and `sum_partials_kernel` sums over the programs. The same bits in every run.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _parameter(pointer, at, mask, default, IS_THERE: tl.constexpr):
    """A block of weight or bias in float32; `default` where there is none, and beyond the row."""
    if IS_THERE:
        found = tl.load(pointer + at, mask=mask, other=default).to(tl.float32)
    else:
        found = tl.zeros_like(at).to(tl.float32) + default
    return found


@triton.jit
def _input(x, residual, total, at, mask, HAS_RESIDUAL: tl.constexpr):
    """x in float32, or x + residual as it is rounded to its dtype; 0 beyond the row."""
    found = tl.load(x + at, mask=mask, other=0.0)
    if HAS_RESIDUAL:
        other = tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
        found = (found.to(tl.float32) + other).to(total.dtype.element_ty)
    return found


@triton.jit
def forward_kernel(
    x, residual, total, weight, bias, out, stats, rows, n, eps,
    IS_CENTRED: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows of at most BLOCK values a program."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    at = row[:, None] * n + column[None, :]
    mask = (row < rows)[:, None] & (column < n)[None, :]
    found = _input(x, residual, total, at, mask, HAS_RESIDUAL)
    if HAS_RESIDUAL:
        tl.store(total + at, found, mask=mask)
    values = found.to(tl.float32)
    if IS_CENTRED:
        mean = tl.sum(values, axis=1) / n
        values = tl.where(mask, values - mean[:, None], 0.0)
        # What rounding left out of the mean.
        rest = tl.sum(values, axis=1) / n
        values = tl.where(mask, values - rest[:, None], 0.0)
        tl.store(stats + row, mean + rest, mask=row < rows)
        stats += rows
    rstd = tl.rsqrt(tl.sum(values * values, axis=1) / n + eps)
    tl.store(stats + row, rstd, mask=row < rows)
    values *= rstd[:, None] * _parameter(weight, column, column < n, 1.0, HAS_WEIGHT)[None, :]
    values += _parameter(bias, column, column < n, 0.0, HAS_BIAS)[None, :]
    tl.store(out + at, values.to(out.dtype.element_ty), mask=mask)


@triton.jit
def forward_long_kernel(
    x, residual, total, weight, bias, out, stats, rows, n, eps,
    IS_CENTRED: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One row a program, in blocks.

    Each lane follows mean and squared distances of its own values (Welford), which are put together at the
    end (Chan, Golub and LeVeque).
    """
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    means = tl.zeros([BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n, BLOCK):
        mask = start + lane < n
        found = _input(x, residual, total, row * n + start + lane, mask, HAS_RESIDUAL)
        if HAS_RESIDUAL:
            tl.store(total + row * n + start + lane, found, mask=mask)
        values = found.to(tl.float32)
        if IS_CENTRED:
            distance = values - means
            means += tl.where(mask, distance / (start // BLOCK + 1), 0.0)
            squares += tl.where(mask, distance * (values - means), 0.0)
        else:
            squares += values * values
    mean = 0.0
    if IS_CENTRED:
        counts = (n - lane + BLOCK - 1) // BLOCK
        mean = tl.sum(means * counts) / n
        squares += counts * (means - mean) * (means - mean)
        tl.store(stats + row, mean)
        stats += rows
    rstd = tl.rsqrt(tl.sum(squares) / n + eps)
    tl.store(stats + row, rstd)
    for start in range(0, n, BLOCK):
        column = start + lane
        mask = column < n
        values = _input(x, residual, total, row * n + column, mask, HAS_RESIDUAL).to(tl.float32)
        values = (values - mean) * rstd * _parameter(weight, column, mask, 1.0, HAS_WEIGHT)
        values += _parameter(bias, column, mask, 0.0, HAS_BIAS)
        tl.store(out + row * n + column, values.to(out.dtype.element_ty), mask=mask)


@triton.jit
def backward_kernel(
    grad, grad_sum, x, weight, stats, grad_x, partials, rows, n,
    IS_CENTRED: tl.constexpr, HAS_GRAD_SUM: tl.constexpr, HAS_WEIGHT: tl.constexpr,
    WANTS_X: tl.constexpr, WANTS_WEIGHT: tl.constexpr, WANTS_BIAS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows of at most BLOCK values at a time, every so many programs; partials (2, programs, n)."""
    program, programs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    column = tl.arange(0, BLOCK)
    own_weight = _parameter(weight, column, column < n, 1.0, HAS_WEIGHT)[None, :]
    of_weight = tl.zeros([ROWS, BLOCK], tl.float32)
    of_bias = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(program * ROWS, rows, programs * ROWS):
        row = start + tl.arange(0, ROWS)
        incoming, hat, rstd = _terms(grad, x, stats, row, column, rows, n, IS_CENTRED)
        if WANTS_WEIGHT:
            of_weight += incoming * hat
        if WANTS_BIAS:
            of_bias += incoming
        if WANTS_X:
            g = incoming * own_weight
            offset, slope = tl.sum(g, axis=1) / n, tl.sum(g * hat, axis=1) / n
            _store_grad_x(
                g, hat, rstd, offset, slope, grad_sum, grad_x, row, column, rows, n, IS_CENTRED, HAS_GRAD_SUM
            )  # fmt: skip
    _store_partials(
        partials, of_weight, of_bias, program, programs, column, n, WANTS_WEIGHT, WANTS_BIAS
    )


@triton.jit
def backward_long_kernel(
    grad, grad_sum, x, weight, stats, grad_x, partials, rows, n,
    IS_CENTRED: tl.constexpr, HAS_GRAD_SUM: tl.constexpr, HAS_WEIGHT: tl.constexpr,
    WANTS_X: tl.constexpr, WANTS_WEIGHT: tl.constexpr, WANTS_BIAS: tl.constexpr,
    SWEEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (i, j): columns of block i in every so many rows; partials (2, programs of j, n).

    What concerns a whole row is found by each of its programs, which run side by side: one of them reads the
    row from memory, the others find it in L2.
    """
    program, programs = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    own_weight = _parameter(weight, column, column < n, 1.0, HAS_WEIGHT)[None, :]
    of_weight = tl.zeros([1, BLOCK], tl.float32)
    of_bias = tl.zeros([1, BLOCK], tl.float32)
    for start in range(program, rows, programs):
        row = start + tl.arange(0, 1)
        offset, slope = _line(grad, x, weight, stats, row, rows, n, IS_CENTRED, HAS_WEIGHT, SWEEP)
        incoming, hat, rstd = _terms(grad, x, stats, row, column, rows, n, IS_CENTRED)
        if WANTS_WEIGHT:
            of_weight += incoming * hat
        if WANTS_BIAS:
            of_bias += incoming
        if WANTS_X:
            _store_grad_x(
                incoming * own_weight, hat, rstd, offset, slope, grad_sum, grad_x, row, column, rows, n,
                IS_CENTRED, HAS_GRAD_SUM,
            )  # fmt: skip
    _store_partials(
        partials, of_weight, of_bias, program, programs, column, n, WANTS_WEIGHT, WANTS_BIAS
    )


@triton.jit
def _terms(grad, x, stats, row, column, rows, n, IS_CENTRED: tl.constexpr):
    """The incoming gradient and hat of some columns of some rows, 0 beyond them, and the rows' rstd."""
    at = row[:, None] * n + column[None, :]
    mask = (row < rows)[:, None] & (column < n)[None, :]
    incoming = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32)
    hat = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    if IS_CENTRED:
        hat -= tl.load(stats + row, mask=row < rows, other=0.0)[:, None]
        stats += rows
    rstd = tl.load(stats + row, mask=row < rows, other=0.0)
    return incoming, tl.where(mask, hat * rstd[:, None], 0.0), rstd


@triton.jit
def _line(
    grad, x, weight, stats, row, rows, n,
    IS_CENTRED: tl.constexpr, HAS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The means of g and of g * hat over a row, in blocks."""
    sums = tl.zeros([1, BLOCK], tl.float32)
    products = tl.zeros([1, BLOCK], tl.float32)
    for start in range(0, n, BLOCK):
        column = start + tl.arange(0, BLOCK)
        incoming, hat, _ = _terms(grad, x, stats, row, column, rows, n, IS_CENTRED)
        g = incoming * _parameter(weight, column, column < n, 1.0, HAS_WEIGHT)[None, :]
        sums += g
        products += g * hat
    return tl.sum(sums, axis=1) / n, tl.sum(products, axis=1) / n


@triton.jit
def _store_grad_x(
    g, hat, rstd, offset, slope, grad_sum, grad_x, row, column, rows, n,
    IS_CENTRED: tl.constexpr, HAS_GRAD_SUM: tl.constexpr,
):  # fmt: skip
    """grad_x = rstd * (g - offset - hat * slope) + grad_sum."""
    at = row[:, None] * n + column[None, :]
    mask = (row < rows)[:, None] & (column < n)[None, :]
    found = g - hat * slope[:, None]
    if IS_CENTRED:
        found -= offset[:, None]
    found *= rstd[:, None]
    if HAS_GRAD_SUM:
        found += tl.load(grad_sum + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(grad_x + at, found.to(grad_x.dtype.element_ty), mask=mask)


@triton.jit
def _store_partials(
    partials, of_weight, of_bias, program, programs, column, n,
    WANTS_WEIGHT: tl.constexpr, WANTS_BIAS: tl.constexpr,
):  # fmt: skip
    """What this program's rows add to the parameters' gradients: partials (2, programs, n)."""
    if WANTS_WEIGHT:
        tl.store(partials + program * n + column, tl.sum(of_weight, axis=0), mask=column < n)
    if WANTS_BIAS:
        partials += (programs + program) * n
        tl.store(partials + column, tl.sum(of_bias, axis=0), mask=column < n)


@triton.jit
def sum_partials_kernel(
    partials, bias_partials, grad_weight, grad_bias, count, n,
    WANTS_WEIGHT: tl.constexpr, WANTS_BIAS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each parameter's gradient: the sum over the first dimension of its partials (count, n)."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if WANTS_WEIGHT:
        _sum_of_rows(partials, grad_weight, count, n, column, ROWS, BLOCK)
    if WANTS_BIAS:
        _sum_of_rows(bias_partials, grad_bias, count, n, column, ROWS, BLOCK)


@triton.jit
def _sum_of_rows(partials, out, count, n, column, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, count, ROWS):
        row = start + tl.arange(0, ROWS)
        at = row[:, None].to(tl.int64) * n + column[None, :]
        mask = (row < count)[:, None] & (column < n)[None, :]
        total += tl.load(partials + at, mask=mask, other=0.0)
    tl.store(out + column, tl.sum(total, axis=0).to(out.dtype.element_ty), mask=column < n)
