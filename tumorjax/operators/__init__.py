"""Discrete calculus on a grid."""

from tumorjax.operators.diffusion import AXES as AXES
from tumorjax.operators.diffusion import Conductance as Conductance
from tumorjax.operators.diffusion import difference as difference
from tumorjax.operators.diffusion import diffuse as diffuse
from tumorjax.operators.diffusion import face_conductance as face_conductance
from tumorjax.operators.diffusion import largest_eigenvalue_bound as largest_eigenvalue_bound
from tumorjax.operators.diffusion import pair as pair
from tumorjax.operators.diffusion import spread as spread
from tumorjax.operators.interpolation import block_mean as block_mean
from tumorjax.operators.interpolation import spline_ball as spline_ball
