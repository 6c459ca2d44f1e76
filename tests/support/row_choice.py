"""One row of the table serving a pass alone, whatever `worth` says, to test each of a backend's kernels."""

from __future__ import annotations

import dataclasses

from fastmodel.ops import dispatch, table


def serve(monkeypatch, op: str, **kernels: str) -> None:
    """Let passes of `op` be served by the row of backend "cuda" with the kernel given, and by no other.

    Args:
        kernels: the pass, and its kernel's name; other passes keep all their rows.
    """
    rows_of = table.rows_of

    def chosen(name: str, pass_: str) -> tuple[table.Row, ...]:
        if name != op or pass_ not in kernels:
            return rows_of(name, pass_)
        wanted = f"cuda_kernel:{kernels[pass_]}"
        rows = [r for r in rows_of(op, pass_) if (r.backend, r.kernel) == ("cuda", wanted)]
        assert len(rows) == 1, f"{op}: no row {wanted}"
        return (dataclasses.replace(rows[0], worth=None),)

    monkeypatch.setattr(table, "rows_of", chosen)
    dispatch._candidates.cache_clear()
