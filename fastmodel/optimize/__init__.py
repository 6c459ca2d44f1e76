"""Find the places of a model where fused modules fit, swap them, and leave a receipt."""

from fastmodel.optimize.plan import Place, Plan, plan_of
from fastmodel.optimize.run import optimize
from fastmodel.optimize.select import Candidate, Decision, Strategy, static

__all__ = ["Candidate", "Decision", "Place", "Plan", "Strategy", "optimize", "plan_of", "static"]
