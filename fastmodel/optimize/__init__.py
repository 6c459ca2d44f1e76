"""Find what of a training step can be faster, measure it, keep what wins, and leave a receipt."""

from fastmodel.optimize.evidence import Check, Fingerprint, Measurement, Verification
from fastmodel.optimize.plan import Place, Plan, plan_of
from fastmodel.optimize.revert import revert
from fastmodel.optimize.run import Step, optimize, optimize_step
from fastmodel.optimize.select import Candidate, Decision, Strategy, static

__all__ = [
    "Candidate",
    "Check",
    "Decision",
    "Fingerprint",
    "Measurement",
    "Place",
    "Plan",
    "Step",
    "Strategy",
    "Verification",
    "optimize",
    "optimize_step",
    "plan_of",
    "revert",
    "static",
]
