"""Searches for the most probable parameters."""

from tumorjax.methods.search.lbfgs import LBFGS as LBFGS
