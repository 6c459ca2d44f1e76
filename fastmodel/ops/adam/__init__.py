"""Adam and AdamW, each step one pass over memory."""

from fastmodel.ops.adam.module import Adam, AdamW

__all__ = ["Adam", "AdamW"]
