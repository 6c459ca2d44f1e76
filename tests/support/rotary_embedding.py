"""What every rotary embedding is held to, in test_<name>.py."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastmodel as fm
from fastmodel.ops.case import Case
from support import op_checks
from support.op_checks import OpUnderTest

BACKENDS = [*op_checks.backends("rope"), None]
everywhere = pytest.mark.parametrize("backend", BACKENDS, ids=str)


@dataclasses.dataclass(frozen=True)
class Embedding:
    """One of the ops."""

    name: str
    module: type[nn.Module]
    crossed: Callable[[Tensor], Tensor]
    """Each element's partner, with its sign: out = x * cos + crossed(x) * sin."""
    cases: tuple[Case, ...]

    def plain(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """q and k turned by torch's own products, as Hugging Face's models write it, in one."""
        if cos.dim() == 3:
            cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        turned = [x * cos + self.crossed(x) * sin for x in (q, k)]
        return torch.cat([x.flatten() for x in turned])

    def face(self, *args) -> Tensor:
        """The op's two results in one."""
        return torch.cat([x.flatten() for x in getattr(fm.functional, self.name)(*args)])

    @property
    def op(self) -> OpUnderTest:
        """As op_checks take it."""
        return OpUnderTest(self.name, self.face, self.plain, self.cases, constants=(2, 3))

    @property
    def by_name(self) -> dict[str, Case]:
        return {case.name: case for case in self.cases}


def turned_on_a_circle(module: nn.Module, x: Tensor, is_neighbour: bool) -> Tensor:
    """x (1, 1, T, D) times exp(i angle), pairs as complex numbers, in float64."""
    width = x.shape[-1]
    speeds = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.outer(torch.arange(x.shape[-2], dtype=torch.float64), speeds)
    wide = x.double()
    first, second = (wide[..., 0::2], wide[..., 1::2]) if is_neighbour else wide.chunk(2, dim=-1)
    out = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)
    if is_neighbour:
        return torch.stack([out.real, out.imag], dim=-1).flatten(-2)
    return torch.cat([out.real, out.imag], dim=-1)


class RotaryEmbeddingTests:
    """The tests; a subclass names its `embedding`."""

    embedding: Embedding
    is_neighbour: bool

    def args(self, dtype=torch.float32, name="tiny"):
        return self.embedding.by_name[name].make(dtype)

    @pytest.mark.parametrize("dtype", op_checks.DTYPES, ids=str)
    @everywhere
    def test_forward_and_gradients(self, backend, dtype):
        for case in self.embedding.op.test_cases:
            op_checks.check_against_float64(self.embedding.op, case, backend, dtype)

    @everywhere
    @pytest.mark.parametrize("name", ["tiny", "table-each", "pairs-above", "transposed"])
    def test_any_strides(self, name, backend):
        op_checks.check_any_strides(self.embedding.op, self.args(name=name), backend, depth=2)

    @everywhere
    def test_results_lie_as_the_arguments(self, backend):
        q, k, cos, sin = self.args(name="transposed")
        with fm.use_backend(backend):
            found = getattr(fm.functional, self.embedding.name)(q, k, cos, sin)
        assert [x.stride() for x in found] == [q.stride(), k.stride()]

    @everywhere
    def test_tables_of_another_dtype(self, backend):
        """bfloat16 heads keep the accuracy of float32 tables."""
        q, k, cos, sin = self.args(name="table-each")
        low = q.bfloat16(), k.bfloat16()
        with fm.use_backend(backend):
            found = self.embedding.face(*low, cos, sin)
        assert found.dtype == torch.bfloat16
        expected = self.embedding.plain(*(x.double() for x in (*low, cos, sin)))
        op_checks.assert_close(found, expected, torch.bfloat16, 2, "float32 tables")

    @everywhere
    def test_special_values(self, backend):
        q, k, cos, sin = self.args(name="pairs-above")
        for value in (torch.nan, torch.inf, -torch.inf):
            q[0, 0, 1, 3], k[0, 1, 2, 33] = value, value
            op = self.embedding.op
            with fm.use_backend(backend):
                found = op_checks._with_ones(op.face, op.leaves((q, k, cos, sin)))
            expected = op_checks._with_ones(op.plain, op.leaves((q, k, cos, sin), torch.float64))
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b.float(), equal_nan=True)

    @everywhere
    def test_threads(self, backend):
        case = self.embedding.by_name["two-threads"]
        for threads in (1, 2, 3):
            op_checks.check_thread_counts(self.embedding.op, case, backend, threads)

    @everywhere
    def test_second_derivative_of_float32(self, backend):
        """Of the results' squares: the op itself is linear."""
        squared = dataclasses.replace(
            self.embedding.op,
            face=lambda *args: self.embedding.face(*args).square(),
            plain=lambda *args: self.embedding.plain(*args).square(),
        )
        op_checks.check_mixed_second_derivative(squared, self.args(), backend)

    def test_derivatives(self):
        q, k, cos, sin = self.args(torch.float64)
        op_checks.check_derivatives(self.embedding.op, (q[:1], k[:1], cos, sin))

    def test_only_the_gradients_wanted(self):
        q, k, cos, sin = self.args()
        for wants in ((True, False), (False, True)):
            ours, theirs = (
                [x.clone().requires_grad_(want) for x, want in zip((q, k), wants, strict=True)]
                for _ in range(2)
            )
            self.embedding.face(*ours, cos, sin).square().sum().backward()
            self.embedding.plain(*theirs, cos, sin).square().sum().backward()
            for a, b, want in zip(ours, theirs, wants, strict=True):
                assert (a.grad is not None) == want
                if want:
                    torch.testing.assert_close(a.grad, b.grad)

    def test_one_result_alone_may_be_used(self):
        for index in range(2):
            args = self.embedding.op.leaves(self.args())
            out = getattr(fm.functional, self.embedding.name)(*args)[index]
            grads = torch.autograd.grad(out.sum(), args[:2])
            assert grads[index].abs().sum() > 0 and not grads[1 - index].any()

    def test_registration(self):
        ops = torch.ops.fastmodel
        op = getattr(ops, self.embedding.name).default
        backward = getattr(ops, f"{self.embedding.name}_backward").default
        for name in ("tiny", "transposed", "table-each"):
            q, k, cos, sin = self.args(name=name)
            args = (q.requires_grad_(), k.requires_grad_(), cos, sin)
            torch.library.opcheck(op, args)
            grads = [torch.randn_like(x) for x in op(*args)]
            for wanted in ([True, True], [False, True]):
                torch.library.opcheck(backward, (*grads, cos, sin, wanted))

    def test_autocast(self):
        q, k, cos, sin = self.args()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = self.embedding.face(q.bfloat16(), k.bfloat16(), cos, sin)
            assert found.dtype == torch.bfloat16
            assert self.embedding.face(q, k, cos, sin).dtype == torch.float32

    def test_bad_input(self):
        q, k, cos, sin = self.args()
        for args, words in (
            ((q[0], k, cos, sin), "q has shape (3, 5, 6)"),
            ((q, k[:1], cos, sin), "k (1, 1, 5, 6)"),
            ((q, k[:, :, :4], cos, sin), "k (2, 1, 4, 6)"),
            ((q[..., :5], k[..., :5], cos, sin), "q has 5 elements a head"),
            ((q, k, cos[:4], sin), "cos has shape (4, 6)"),
            ((q, k, cos, sin[:, :3]), "sin has shape (5, 3)"),
            ((q, k, cos[None], sin), "make them alike"),
            ((q, k, cos.double(), sin), "make them alike"),
            ((q, k, cos.requires_grad_(), sin), "cos.detach()"),
            ((q, k.double(), cos.detach(), sin), "k is float64"),
            ((q.int(), k.int(), cos.detach(), sin), "q must be floating point"),
            ((q, k, cos.detach().to("meta"), sin.to("meta")), "cos on meta"),
        ):
            op_checks.check_bad_input(
                dataclasses.replace(
                    self.embedding.op, face=getattr(fm.functional, self.embedding.name)
                ),
                args,
                words,
            )

    def test_module_turns_pairs_on_a_circle(self):
        module = self.embedding.module(12, 9)
        assert not module.state_dict() and not list(module.parameters())
        q, k = torch.randn(1, 1, 9, 12), torch.randn(1, 1, 9, 12)
        for found, x in zip(module(q, k), (q, k), strict=True):
            expected = turned_on_a_circle(module, x, self.is_neighbour)
            torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=1e-6)
        later = module(q[:, :, 4:7], k[:, :, 4:7], first=4)
        for found, whole in zip(later, module(q, k), strict=True):
            torch.testing.assert_close(found, whole[:, :, 4:7])
        for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), module.bfloat16()):
            assert twin(q, k)[0].shape == q.shape

    def test_module_compiles(self):
        torch._dynamo.reset()
        module = self.embedding.module(6, 5)
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        q, k, *_ = self.args()
        ours, theirs = (
            [
                x.clone().requires_grad_()
                for x in (q.transpose(1, 2).contiguous().transpose(1, 2), k)
            ]
            for _ in range(2)
        )
        for call, leaves in ((compiled, ours), (module, theirs)):
            sum(x.square().sum() for x in call(*leaves)).backward()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a.grad, b.grad)

    def test_module_from_hugging_faces_speeds(self):
        source = nn.Module()
        source.register_buffer("inv_freq", 500.0 ** (-torch.arange(0, 8, 2) / 8))
        source.max_seq_len_cached, source.attention_scaling = 7, 0.5
        made = self.embedding.module.from_torch(source.eval())
        expected = self.embedding.module(8, 7, base=500.0)
        assert not made.training
        torch.testing.assert_close(made.cos, 0.5 * expected.cos)
        torch.testing.assert_close(made.sin, 0.5 * expected.sin)
        assert len(self.embedding.module.from_torch(source, positions=3).sin) == 3

    def test_module_refuses_what_its_tables_lack(self):
        module = self.embedding.module(6, 5)
        q = torch.randn(1, 1, 4, 6)
        for first in (2, -1):
            with pytest.raises(fm.errors.InputError, match="the tables have 0 to 4"):
                module(q, q, first)
        with pytest.raises(fm.errors.InputError, match="width 5 is odd"):
            self.embedding.module(5, 5)
