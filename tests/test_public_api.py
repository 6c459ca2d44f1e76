"""The public names: listed, documented, and subclasses of what they stand for."""

import inspect
import pkgutil

import pytest
import torch
from torch import nn

import fastmodel as fm

FACES = [fm, fm.nn, fm.functional, fm.optim, fm.errors]
NAMES = {
    fm: {
        *("Plan", "__version__", "errors", "functional", "kernels", "nn", "optim", "optimize"),
        *("CapturedStep", "capture_step"),
        *("optimize_step", "plan_of", "profile", "revert", "use_backend"),
    },
    fm.nn: {
        *("AddLayerNorm", "AddRMSNorm", "LayerNorm", "RMSNorm"),
        "BatchNormReLU2d",
        "ConvReLU2d",
        "ConvReLUMaxPool2d",
        "CrossEntropyLoss",
        "LinearReLU",
        "LinearReLUDropout",
        *("Linear", "LinearGELU", "LinearSiLU", "LinearSigmoid", "LinearTanh"),
        *("GEGLU", "GEGLUTanh", "SwiGLU"),
        *("InterleavedRotaryEmbedding", "RotaryEmbedding"),
        "LinearCrossEntropyLoss",
        "MSELoss",
    },
    fm.functional: {
        *("add_layer_norm", "add_rms_norm", "layer_norm", "rms_norm"),
        "batch_norm_relu",
        "conv_relu",
        "conv_relu_maxpool",
        "cross_entropy",
        "linear_relu",
        "linear_relu_dropout",
        *("linear", "linear_gelu", "linear_sigmoid", "linear_silu", "linear_tanh"),
        *("geglu", "geglu_tanh", "swiglu"),
        *("rope", "rope_interleaved"),
        "linear_cross_entropy",
        "mse_loss",
    },
    fm.optim: {"Adam", "AdamW", "GradScaler", "SGD"},
}
STANDS_FOR = {
    fm.nn.AddLayerNorm: nn.LayerNorm,
    fm.nn.AddRMSNorm: nn.RMSNorm,
    fm.nn.BatchNormReLU2d: nn.BatchNorm2d,
    fm.nn.ConvReLU2d: nn.Conv2d,
    fm.nn.ConvReLUMaxPool2d: nn.Conv2d,
    fm.nn.CrossEntropyLoss: nn.CrossEntropyLoss,
    fm.nn.Linear: nn.Linear,
    fm.nn.LayerNorm: nn.LayerNorm,
    fm.nn.LinearGELU: nn.Linear,
    fm.nn.LinearReLU: nn.Linear,
    fm.nn.LinearReLUDropout: nn.Linear,
    fm.nn.LinearSiLU: nn.Linear,
    fm.nn.LinearSigmoid: nn.Linear,
    fm.nn.LinearTanh: nn.Linear,
    fm.nn.MSELoss: nn.MSELoss,
    fm.nn.RMSNorm: nn.RMSNorm,
    fm.optim.Adam: torch.optim.Adam,
    fm.optim.AdamW: torch.optim.AdamW,
    fm.optim.GradScaler: torch.amp.GradScaler,
    fm.optim.SGD: torch.optim.SGD,
}


def public(face):
    names = getattr(face, "__all__", None) or [n for n in vars(face) if not n.startswith("_")]
    return {n: getattr(face, n) for n in names}


@pytest.mark.parametrize("face", NAMES, ids=lambda face: face.__name__)
def test_all_is_what_we_promise(face):
    assert NAMES[face] <= set(face.__all__)
    assert len(set(face.__all__)) == len(face.__all__)


@pytest.mark.parametrize("face", NAMES, ids=lambda face: face.__name__)
def test_nothing_public_is_left_out_of_all(face):
    own = {
        name
        for name, value in vars(face).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and getattr(value, "__module__", "").startswith("fastmodel")
    }
    assert own <= set(face.__all__)


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_every_public_name_is_documented(face):
    assert face.__doc__
    for name, value in public(face).items():
        if inspect.ismodule(value) or callable(value):
            if not getattr(value, "__module__", "fastmodel").startswith("fastmodel"):
                continue
            assert (value.__doc__ or "").strip(), name
            assert value.__doc__ != getattr(STANDS_FOR.get(value), "__doc__", None), name


@pytest.mark.parametrize("function", fm.functional.__all__)
def test_a_function_documents_its_arguments(function):
    doc = inspect.getdoc(getattr(fm.functional, function))
    for section in ("Args:", "Returns:", "Raises:"):
        assert section in doc
    for argument in inspect.signature(getattr(fm.functional, function)).parameters:
        assert argument in doc, argument


@pytest.mark.parametrize("ours", STANDS_FOR, ids=lambda c: c.__name__)
def test_is_a_subclass_with_pytorchs_arguments_first(ours):
    theirs = STANDS_FOR[ours]
    assert issubclass(ours, theirs)
    own = inspect.signature(ours).parameters
    for name, parameter in inspect.signature(theirs).parameters.items():
        assert name in own, name
        assert own[name].default == parameter.default, name
        assert own[name].kind == parameter.kind, name
    extra = [p for name, p in own.items() if name not in inspect.signature(theirs).parameters]
    assert all(p.default is not p.empty for p in extra), "an extra argument must have a default"


@pytest.mark.parametrize("name", fm.nn.__all__)
def test_a_module_is_made_from_pytorchs(name):
    assert inspect.ismethod(getattr(fm.nn, name).from_torch)


@pytest.mark.parametrize("name", ["cross_entropy", "layer_norm", "mse_loss", "rms_norm"])
def test_a_twin_has_pytorchs_signature(name):
    ours = inspect.signature(getattr(fm.functional, name)).parameters
    theirs = inspect.signature(getattr(nn.functional, name)).parameters
    assert [(p.name, p.default) for p in ours.values()] == [
        (p.name, p.default) for p in theirs.values()
    ]


def test_every_error_is_a_fastmodel_error_and_stands_in_the_tree():
    for name, value in public(fm.errors).items():
        if inspect.isclass(value):
            assert issubclass(value, fm.errors.FastmodelError)
            assert name in fm.errors.__doc__


def test_every_module_says_what_it_is():
    for info in pkgutil.walk_packages(fm.__path__, "fastmodel."):
        if info.name in ("fastmodel._C", "fastmodel.__main__"):
            continue
        module = __import__(info.name, fromlist=["_"])
        assert (module.__doc__ or "").strip(), info.name
