"""Searches for the most probable parameters."""

from tumorjax.methods.search.lbfgs import LBFGS as LBFGS
from tumorjax.methods.search.weak_constraint import WeakConstraint as WeakConstraint
