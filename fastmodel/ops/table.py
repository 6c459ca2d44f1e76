"""The kernel table: which kernels serve which pass of which op, in the order they are tried.

Rows are data; a row's kernel is named by a string and imported when it is first wanted. The order within
an op and pass is the static preference of automatic choice: the first row whose backend is available,
whose device and dtype fit, whose condition accepts the arguments and whose `worth` sees a gain is taken.

Adding a kernel is adding a row.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fastmodel import env

BACKENDS = ("cpu", "cuda", "triton", "library", "reference")

_NATIVE_DTYPES = ("float32", "bfloat16")
_GPU_DTYPES = ("float32", "bfloat16", "float16")
_ON_GPU = ("cuda",), _GPU_DTYPES
_UNMEASURED = "no GPU has measured it yet: `make gpu`"


@dataclass(frozen=True)
class Row:
    """One kernel: op x pass x backend.

    `kernel`, `condition` and `worth` are "module:function" below `fastmodel.ops.<op>`. The condition takes
    the kernel's arguments and returns None, or the reason why the kernel does not take them; `worth` likewise
    returns None, or the reason why a later row is faster: a backend asked for by name may overrule it.
    """

    op: str
    pass_: str
    backend: str
    kernel: str
    devices: tuple[str, ...] = ()
    """Device types it takes; empty for any."""
    dtypes: tuple[str, ...] = ()
    """Element types it takes; empty for any."""
    condition: str | None = None
    worth: str | None = None
    only_by_name: bool = False
    """Does automatic choice pass it over, as no measurement has it faster than a later row?"""
    evidence: str = ""
    """Why the row stands where it does: the committed result, or the reason."""

    @property
    def reason(self) -> str | None:
        """Why the row is not available on this machine, or None if it is."""
        missing = _MISSING.get(self.kernel.partition(":")[0])
        return None if missing is None else missing()

    @property
    def available(self) -> bool:
        """Can this row run on this machine?"""
        return self.reason is None

    def takes(self, device_type: str, dtype: torch.dtype, by_name: bool = False) -> str | None:
        """None if the row takes tensors of this device and dtype, else the reason why not.

        A GPU's row that is simulated here takes CPU tensors too, where its backend was asked for by name.
        """
        is_simulated = by_name and device_type == "cpu" and self.backend in env.simulated()
        if self.devices and device_type not in self.devices and not is_simulated:
            return f"takes {' or '.join(self.devices)} tensors, not {device_type}"
        name = str(dtype).removeprefix("torch.")
        if self.dtypes and name not in self.dtypes:
            return f"takes {' or '.join(self.dtypes)}, not {name}"
        return None

    def resolve(self) -> Callable:
        """Import the kernel."""
        return _load(self.op, self.kernel)

    def resolve_checks(self, asks_worth: bool = True) -> tuple[Callable, ...]:
        """Import the condition and `worth`: what the row asks of the arguments."""
        names = (self.condition, self.worth if asks_worth else None)
        return tuple(_load(self.op, name) for name in names if name is not None)


_MISSING: dict[str, Callable[[], str | None]] = {
    "native_kernel": env.native_missing,
    "cuda_kernel": env.cuda_missing,
    "triton_kernel": env.triton_missing,
}
"""What a module of kernels needs, and why it may not be here."""


@functools.cache
def _load(op: str, target: str) -> Callable:
    module, function = target.split(":")
    return getattr(importlib.import_module(f"fastmodel.ops.{op}.{module}"), function)


def _measured(op: str) -> str:
    """The results of the op's bench, which ran every backend beside PyTorch."""
    return f"benchmarks/results/epyc-2core/{op}.json"


def _native(op: str, pass_: str, condition: str | None = None, worth: str | None = None) -> Row:
    kernel = f"native_kernel:{pass_}_cpu"
    return Row(
        op, pass_, "cpu", kernel, ("cpu",), _NATIVE_DTYPES, condition, worth, evidence=_measured(op)
    )


def _winograd(op: str, pass_: str) -> Row:
    """The native kernels for filters of 3 to 6 taps a side and stride 1 over many channels."""
    kernel, check = f"native_kernel:{pass_}_winograd", "native_kernel:winograd_condition"
    worth = f"worth:{pass_}_winograd"
    return Row(
        op, pass_, "cpu", kernel, ("cpu",), _NATIVE_DTYPES, check, worth, evidence=_measured(op)
    )


def _depthwise(op: str, pass_: str, worth: str | None = None) -> Row:
    """The native kernels for filters that each see one channel of their own."""
    kernel, check = f"native_kernel:{pass_}_depthwise", "native_kernel:depthwise_condition"
    return Row(
        op, pass_, "cpu", kernel, ("cpu",), _NATIVE_DTYPES, check, worth, evidence=_measured(op)
    )


def _library(op: str, pass_: str, condition: str | None = None) -> Row:
    """PyTorch's products with our epilogue in one pass, on the CPU."""
    kernel = f"native_kernel:{pass_}_library"
    return Row(
        op, pass_, "library", kernel, ("cpu",), _NATIVE_DTYPES, condition, evidence=_measured(op)
    )


def _chunked(op: str, pass_: str) -> Row:
    """PyTorch's own ops, a chunk of rows at a time: as fast as whole, and far smaller."""
    return Row(op, pass_, "library", f"library:{pass_}", evidence=_measured(op))


def _cuda(op: str, pass_: str, condition: str | None = None, worth: str | None = None) -> Row:
    """The native kernels for NVIDIA GPUs."""
    kernel = f"cuda_kernel:{pass_}"
    return Row(op, pass_, "cuda", kernel, *_ON_GPU, condition, worth, evidence=_UNMEASURED)


def _cuda_variant(op: str, pass_: str, variant: str, only_by_name: bool = False) -> Row:
    """Native kernels for NVIDIA GPUs that take some calls, and are worth it for some of those."""
    name = f"{pass_}_{variant}"
    kernel, condition = f"cuda_kernel:{name}", f"cuda_kernel:{name}_condition"
    worth = None if only_by_name else f"worth_cuda:{name}"
    return Row(op, pass_, "cuda", kernel, *_ON_GPU, condition, worth, only_by_name, _UNMEASURED)


def _library_cuda(op: str, pass_: str, kernel: str, condition: str | None = None) -> Row:
    """The library's products on NVIDIA GPUs."""
    return Row(op, pass_, "library", kernel, *_ON_GPU, condition, evidence=_UNMEASURED)


def _triton(op: str, pass_: str, condition: str | None = None, only_by_name: bool = False) -> Row:
    """The portable kernels for GPUs."""
    kernel = f"triton_kernel:{pass_}"
    return Row(op, pass_, "triton", kernel, *_ON_GPU, condition, None, only_by_name, _UNMEASURED)


def _reference(op: str, pass_: str) -> Row:
    return Row(op, pass_, "reference", f"reference:{pass_}", evidence="the definition")


def _step(op: str) -> tuple[Row, ...]:
    """An optimizer's rows; its library row is PyTorch's for-loop, foreach or fused step."""
    served = "serves what no kernel takes"
    return (
        _native(op, "step", "native_kernel:refusal"),
        _cuda(op, "step", "cuda_kernel:refusal"),
        _triton(op, "step", "triton_kernel:refusal"),
        Row(op, "step", "library", "library:step", condition="library:refusal", evidence=served),
        _reference(op, "step"),
    )


ROWS: tuple[Row, ...] = (
    *_step("adam"),
    _native("add_layer_norm", "forward", "native_kernel:promotes_to_a_native_dtype"),
    _triton("add_layer_norm", "forward", "triton_kernel:promotes_to_a_gpu_dtype"),
    _reference("add_layer_norm", "forward"),
    _native("add_layer_norm", "backward"),
    _triton("add_layer_norm", "backward"),
    _reference("add_layer_norm", "backward"),
    _native("add_rms_norm", "forward", "native_kernel:promotes_to_a_native_dtype"),
    _triton("add_rms_norm", "forward", "triton_kernel:promotes_to_a_gpu_dtype"),
    _reference("add_rms_norm", "forward"),
    _native("add_rms_norm", "backward"),
    _triton("add_rms_norm", "backward"),
    _reference("add_rms_norm", "backward"),
    _native("batch_norm_relu", "forward"),
    _reference("batch_norm_relu", "forward"),
    _native("batch_norm_relu", "backward"),
    _reference("batch_norm_relu", "backward"),
    _native("batch_norm_relu", "update"),
    _reference("batch_norm_relu", "update"),
    _depthwise("conv_relu", "forward", "worth:forward_depthwise"),
    _winograd("conv_relu", "forward"),
    _native("conv_relu", "forward", "native_kernel:forward_condition", "worth:forward"),
    _cuda_variant("conv_relu", "forward", "depthwise"),
    _cuda_variant("conv_relu", "forward", "direct"),
    _cuda_variant("conv_relu", "forward", "gemm", only_by_name=True),
    _cuda("conv_relu", "forward", worth="worth_cuda:forward"),
    _triton("conv_relu", "forward", "triton_kernel:forward_condition", only_by_name=True),
    _library("conv_relu", "forward"),
    _library_cuda("conv_relu", "forward", "cudnn:forward", "cudnn:forward_condition"),
    _library_cuda("conv_relu", "forward", "cuda_kernel:forward"),
    _reference("conv_relu", "forward"),
    _depthwise("conv_relu", "backward"),
    _winograd("conv_relu", "backward"),
    _native("conv_relu", "backward", "native_kernel:backward_condition", "worth:backward"),
    _cuda_variant("conv_relu", "backward", "depthwise"),
    _cuda_variant("conv_relu", "backward", "direct"),
    _cuda("conv_relu", "backward"),
    _triton("conv_relu", "backward", "triton_kernel:backward_condition", only_by_name=True),
    _library("conv_relu", "backward"),
    _library_cuda("conv_relu", "backward", "cuda_kernel:backward"),
    _reference("conv_relu", "backward"),
    _winograd("conv_relu_maxpool", "forward"),
    _native("conv_relu_maxpool", "forward", "native_kernel:forward_condition", "worth:forward"),
    _cuda_variant("conv_relu_maxpool", "forward", "direct"),
    _cuda("conv_relu_maxpool", "forward"),
    _triton(
        "conv_relu_maxpool",
        "forward",
        "triton_kernel:forward_condition",
        only_by_name=True,
    ),
    _library("conv_relu_maxpool", "forward"),
    _library_cuda("conv_relu_maxpool", "forward", "cuda_kernel:forward"),
    _reference("conv_relu_maxpool", "forward"),
    _winograd("conv_relu_maxpool", "backward"),
    _native("conv_relu_maxpool", "backward", "native_kernel:backward_condition", "worth:backward"),
    _cuda_variant("conv_relu_maxpool", "backward", "direct"),
    _cuda("conv_relu_maxpool", "backward"),
    _triton(
        "conv_relu_maxpool",
        "backward",
        "triton_kernel:backward_condition",
        only_by_name=True,
    ),
    _library("conv_relu_maxpool", "backward", "native_kernel:overlap_condition"),
    _library_cuda("conv_relu_maxpool", "backward", "cuda_kernel:backward"),
    _reference("conv_relu_maxpool", "backward"),
    _native("cross_entropy", "forward", "native_kernel:one_dtype"),
    _cuda("cross_entropy", "forward", "native_kernel:one_dtype"),
    _triton("cross_entropy", "forward", "native_kernel:one_dtype"),
    _reference("cross_entropy", "forward"),
    _native("cross_entropy", "backward", "native_kernel:one_dtype_and_no_weight_gradient"),
    _cuda("cross_entropy", "backward", "native_kernel:one_dtype_and_no_weight_gradient"),
    _triton("cross_entropy", "backward", "native_kernel:one_dtype_and_no_weight_gradient"),
    _reference("cross_entropy", "backward"),
    _native("cross_entropy", "training", "native_kernel:one_dtype"),
    _cuda("cross_entropy", "training", "native_kernel:one_dtype"),
    _triton("cross_entropy", "training", "native_kernel:one_dtype"),
    _reference("cross_entropy", "training"),
    _native("linear", "forward", worth="worth:forward"),
    _reference("linear", "forward"),
    _native("linear", "backward", worth="worth:backward"),
    _reference("linear", "backward"),
    _native("layer_norm", "forward"),
    _triton("layer_norm", "forward"),
    _reference("layer_norm", "forward"),
    _native("layer_norm", "backward"),
    _triton("layer_norm", "backward"),
    _reference("layer_norm", "backward"),
    _native("geglu", "forward"),
    _triton("geglu", "forward"),
    _reference("geglu", "forward"),
    _native("geglu", "backward"),
    _triton("geglu", "backward"),
    _reference("geglu", "backward"),
    _native("geglu_tanh", "forward"),
    _triton("geglu_tanh", "forward"),
    _reference("geglu_tanh", "forward"),
    _native("geglu_tanh", "backward"),
    _triton("geglu_tanh", "backward"),
    _reference("geglu_tanh", "backward"),
    _native("linear_cross_entropy", "forward", "native_kernel:forward_condition"),
    _triton("linear_cross_entropy", "forward"),
    _chunked("linear_cross_entropy", "forward"),
    _reference("linear_cross_entropy", "forward"),
    _native("linear_cross_entropy", "backward", "native_kernel:backward_condition"),
    _triton("linear_cross_entropy", "backward"),
    _chunked("linear_cross_entropy", "backward"),
    _reference("linear_cross_entropy", "backward"),
    _native("linear_gelu", "forward", worth="worth:forward"),
    _cuda("linear_gelu", "forward"),
    _triton("linear_gelu", "forward", only_by_name=True),
    _library("linear_gelu", "forward"),
    _reference("linear_gelu", "forward"),
    _native("linear_gelu", "backward", worth="worth:backward"),
    _cuda("linear_gelu", "backward"),
    _triton("linear_gelu", "backward"),
    _library("linear_gelu", "backward"),
    _reference("linear_gelu", "backward"),
    _native("linear_relu", "forward", worth="worth:forward"),
    _cuda("linear_relu", "forward"),
    _triton("linear_relu", "forward", only_by_name=True),
    _library("linear_relu", "forward"),
    _reference("linear_relu", "forward"),
    _native("linear_relu", "backward", worth="worth:backward"),
    _cuda("linear_relu", "backward"),
    _triton("linear_relu", "backward"),
    _library("linear_relu", "backward"),
    _reference("linear_relu", "backward"),
    _native("linear_relu_dropout", "forward", worth="worth:forward"),
    _triton("linear_relu_dropout", "forward", only_by_name=True),
    _library("linear_relu_dropout", "forward"),
    _reference("linear_relu_dropout", "forward"),
    _native("linear_relu_dropout", "backward", worth="worth:backward"),
    _triton("linear_relu_dropout", "backward"),
    _library("linear_relu_dropout", "backward"),
    _reference("linear_relu_dropout", "backward"),
    _native("linear_sigmoid", "forward", worth="worth:forward"),
    _cuda("linear_sigmoid", "forward"),
    _triton("linear_sigmoid", "forward", only_by_name=True),
    _library("linear_sigmoid", "forward"),
    _reference("linear_sigmoid", "forward"),
    _native("linear_sigmoid", "backward", worth="worth:backward"),
    _cuda("linear_sigmoid", "backward"),
    _triton("linear_sigmoid", "backward"),
    _library("linear_sigmoid", "backward"),
    _reference("linear_sigmoid", "backward"),
    _native("linear_silu", "forward", worth="worth:forward"),
    _cuda("linear_silu", "forward"),
    _triton("linear_silu", "forward", only_by_name=True),
    _library("linear_silu", "forward"),
    _reference("linear_silu", "forward"),
    _native("linear_silu", "backward", worth="worth:backward"),
    _cuda("linear_silu", "backward"),
    _triton("linear_silu", "backward"),
    _library("linear_silu", "backward"),
    _reference("linear_silu", "backward"),
    _native("linear_tanh", "forward", worth="worth:forward"),
    _cuda("linear_tanh", "forward"),
    _triton("linear_tanh", "forward", only_by_name=True),
    _library("linear_tanh", "forward"),
    _reference("linear_tanh", "forward"),
    _native("linear_tanh", "backward", worth="worth:backward"),
    _cuda("linear_tanh", "backward"),
    _triton("linear_tanh", "backward"),
    _library("linear_tanh", "backward"),
    _reference("linear_tanh", "backward"),
    _native("mse_loss", "forward"),
    _cuda("mse_loss", "forward"),
    _triton("mse_loss", "forward"),
    _reference("mse_loss", "forward"),
    _native("mse_loss", "backward"),
    _cuda("mse_loss", "backward"),
    _triton("mse_loss", "backward"),
    _reference("mse_loss", "backward"),
    _native("rms_norm", "forward"),
    _triton("rms_norm", "forward"),
    _reference("rms_norm", "forward"),
    _native("rms_norm", "backward"),
    _triton("rms_norm", "backward"),
    _reference("rms_norm", "backward"),
    _native("rope", "forward"),
    _triton("rope", "forward"),
    _reference("rope", "forward"),
    _native("rope", "backward"),
    _triton("rope", "backward"),
    _reference("rope", "backward"),
    _native("rope_interleaved", "forward"),
    _triton("rope_interleaved", "forward"),
    _reference("rope_interleaved", "forward"),
    _native("rope_interleaved", "backward"),
    _triton("rope_interleaved", "backward"),
    _reference("rope_interleaved", "backward"),
    *_step("sgd"),
    _native("swiglu", "forward"),
    _triton("swiglu", "forward"),
    _reference("swiglu", "forward"),
    _native("swiglu", "backward"),
    _triton("swiglu", "backward"),
    _reference("swiglu", "backward"),
)


@functools.cache
def rows_of(op: str, pass_: str) -> tuple[Row, ...]:
    """The rows of one pass, in order of preference."""
    return tuple(row for row in ROWS if row.op == op and row.pass_ == pass_)


def kernels() -> list[Row]:
    """The whole table, with each row's `available` and `reason` on this machine."""
    return list(ROWS)
