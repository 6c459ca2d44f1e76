"""What Triton kernels share: products, ReLU and activations, random bits; all in float32."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a @ b, summed in float32."""
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def relu(z):
    """max(z, 0); NaN stays NaN."""
    return tl.where(z <= 0, 0.0, z)


@triton.jit
def relu_chain(grad, out):
    """The gradient behind a ReLU that left `out`; NaN counts as alive."""
    return tl.where(out <= 0, 0.0, grad)


@triton.jit
def sigmoid(z):
    """1 / (1 + exp(-z))."""
    return 1 / (1 + tl.exp(-z))


@triton.jit
def sigmoid_chain(grad, out):
    """The gradient behind a sigmoid that left `out`."""
    return grad * out * (1 - out)


@triton.jit
def silu(z):
    """z sigmoid(z)."""
    return z * sigmoid(z)


@triton.jit
def silu_chain(grad, z):
    """grad s (1 + z (1 - s)), s = sigmoid(z)."""
    s = sigmoid(z)
    return grad * (s * (1 + z * (1 - s)))


@triton.jit
def tanh(z):
    """sign(z) (1 - e) / (1 + e), e = exp(-2 |z|); near 0, where 1 - e cancels, its Taylor series."""
    size = tl.abs(z)
    e = tl.exp(-2 * size)
    far = tl.where(z < 0, -1.0, 1.0) * (1 - e) / (1 + e)
    # The series' next term is 2e-10 of the sum at 1/4.
    w = z * z
    series = 62 / 2835 + w * (-1382 / 155925)
    series = -17 / 315 + w * series
    series = 2 / 15 + w * series
    series = -1 / 3 + w * series
    return tl.where(size < 0.25, z + z * w * series, far)


@triton.jit
def tanh_chain(grad, out):
    """The gradient behind a tanh that left `out`."""
    return grad * (1 - out * out)


@triton.jit
def _normal_cdf(z):
    return 0.5 + 0.5 * tl.math.erf(z * 0.7071067811865476)


@triton.jit
def gelu(z):
    """z Phi(z), Phi(z) = (1 + erf(z / sqrt 2)) / 2."""
    return z * _normal_cdf(z)


@triton.jit
def gelu_chain(grad, z):
    """grad (Phi(z) + z phi(z)), phi(z) = exp(-z^2 / 2) / sqrt(2 pi)."""
    density = 0.3989422804014327 * tl.exp(-0.5 * z * z)
    return grad * (_normal_cdf(z) + z * density)


@triton.jit
def _tanh_gelu_parts(z):
    """sigmoid(2 u) and 2 u', u = sqrt(2 / pi) (z + 0.044715 z^3); beyond 15 all is 0 or 1 in float32."""
    b = tl.minimum(tl.maximum(z, -15.0), 15.0)
    w = 0.044715 * b * b
    return sigmoid(1.5957691216057308 * b * (1 + w)), 1.5957691216057308 * (1 + 3 * w)


@triton.jit
def gelu_tanh(z):
    """z (1 + tanh(u)) / 2 = z sigmoid(2 u), u = sqrt(2 / pi) (z + 0.044715 z^3)."""
    s, _ = _tanh_gelu_parts(z)
    return z * s


@triton.jit
def gelu_tanh_chain(grad, z):
    """grad (s + z s (1 - s) 2 u'), s = sigmoid(2 u)."""
    s, slope = _tanh_gelu_parts(z)
    return grad * (s + z * s * ((1 - s) * slope))


@triton.jit
def random_bits(place, ordinal, step, seed):
    """32 random bits (uint32) for each element by its place (int64), as `stochastic_rounding.random_bits`.

    Philox4x32-7 gives four words a counter, for elements 16 apart; each element computes all four and takes
    its own: 60 integer operations, for no exchange between threads.
    """
    counter = place // 64 * 16 + place % 16
    seed = seed.to(tl.int64)
    zero = (place * 0).to(tl.uint32)
    c0, c1, c2, c3 = tl.philox_impl(
        counter.to(tl.uint32),
        (counter >> 32).to(tl.uint32),
        zero + ordinal.to(tl.uint32),
        zero + step.to(tl.uint32),
        zero + seed.to(tl.uint32),
        zero + (seed >> 32).to(tl.uint32),
        7,
    )
    word = place % 64 // 16
    return tl.where(word < 2, tl.where(word == 0, c0, c1), tl.where(word == 2, c2, c3))
