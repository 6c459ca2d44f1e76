"""SGD with momentum, each step one pass over memory."""

from fastmodel.ops.sgd.module import SGD

__all__ = ["SGD"]
