"""Choose the kernel that serves a call, automatically or as `use_backend` asks."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
from collections.abc import Callable, Iterator

import torch

from fastmodel.errors import BackendError, InputError
from fastmodel.ops import table


def _checked(name: str, source: str) -> str:
    if name not in table.BACKENDS:
        raise InputError(
            f"{source}: unknown backend {name!r}; choose one of {', '.join(table.BACKENDS)}"
        )
    return name


@functools.cache
def _from_environment() -> str | None:
    name = os.environ.get("FASTMODEL_BACKEND")
    return _checked(name, "FASTMODEL_BACKEND") if name else None


# What the innermost `use_backend` asked for, _AUTOMATIC for None; None outside of any.
_requested: contextvars.ContextVar[str | None] = contextvars.ContextVar("backend", default=None)
_AUTOMATIC = ""


def requested() -> str | None:
    """The backend in force: of the innermost `use_backend`, else of FASTMODEL_BACKEND, else None."""
    name = _requested.get()
    return _from_environment() if name is None else name or None


@contextlib.contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Serve every fused op in this block by one backend; a request is never silently replaced.

    Args:
        name: "cpu", "cuda", "triton", "library" or "reference"; None for automatic choice,
            whatever FASTMODEL_BACKEND says.

    Raises:
        InputError: the name is unknown.
        BackendError: (at the call of an op) the backend cannot serve it: it is not built, there is no such
            device, or it has no kernel for these arguments.
    """
    token = _requested.set(_AUTOMATIC if name is None else _checked(name, "use_backend"))
    try:
        yield
    finally:
        _requested.reset(token)


@functools.cache
def _candidates(
    op: str, pass_: str, device_type: str, dtype: torch.dtype, backend: str | None
) -> tuple[tuple[Callable, tuple[Callable, ...]], ...]:
    """Kernels that fit and their checks, in order; raises for a request that none can serve.

    A request by name asks `worth` too, to choose among the backend's own rows; then the rows again without,
    the most general, which stands last, first.
    """
    found, unasked, refusals = [], [], []
    for row in table.rows_of(op, pass_):
        if row.only_by_name if backend is None else row.backend != backend:
            continue
        refusal = row.reason or row.takes(device_type, dtype, by_name=backend is not None)
        if refusal is None:
            found.append((row.resolve(), row.resolve_checks()))
            if backend is not None and row.worth is not None:
                unasked.append((row.resolve(), row.resolve_checks(asks_worth=False)))
        else:
            refusals.append(refusal)
    if not found:
        why = "; ".join(refusals) or "it has no such kernel"
        raise BackendError(
            f"{op}: backend {backend!r} cannot serve the {pass_} pass ({why}); "
            "use another backend or automatic choice"
        )
    return (*found, *reversed(unasked))


def choose(op: str, pass_: str, *args) -> Callable:
    """The kernel for these arguments; the first one, a tensor, tells device and dtype.

    Raises:
        BackendError: a backend was asked for by name and cannot serve this call.
    """
    lead = args[0]
    backend = requested()
    refusals: dict[str, None] = {}
    for kernel, checks in _candidates(op, pass_, lead.device.type, lead.dtype, backend):
        for check in checks:
            refusal = check(*args)
            if refusal is not None:
                refusals[refusal] = None
                break
        else:
            return kernel
    raise BackendError(
        f"{op}: backend {backend!r} does not take this {pass_} call ({'; '.join(refusals)}); "
        "use another backend or automatic choice"
    )


def run(op: str, pass_: str, *args):
    """Call the kernel chosen for these arguments, as `choose`."""
    return choose(op, pass_, *args)(*args)
