"""Where a training step goes, what bounds it, and what to do about it."""

from fastmodel.harness.profile.phases import Schedule
from fastmodel.harness.profile.session import Session

__all__ = ["Schedule", "Session"]
