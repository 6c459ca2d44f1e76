"""Measurements that stand for what a race would have found."""

from fastmodel.optimize import Measurement

FAST = Measurement(2e-3, 1e-3, 2.0, 1.9, 2.1, 8)
SLOW = Measurement(1e-3, 2e-3, 0.5, 0.45, 0.55, 8)
EVEN = Measurement(1e-3, 1e-3, 1.0, 0.97, 1.03, 8)
BARELY = Measurement(1e-2, 1.02e-2, 0.98, 0.95, 1.01, 8)
"""Not certainly slower, and by more than neighbours make up for."""
