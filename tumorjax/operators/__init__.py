"""Discrete calculus on a grid."""

from tumorjax.operators.advection import Material as Material
from tumorjax.operators.advection import advect as advect
from tumorjax.operators.advection import face_flow as face_flow
from tumorjax.operators.diffusion import AXES as AXES
from tumorjax.operators.diffusion import Conductance as Conductance
from tumorjax.operators.diffusion import difference as difference
from tumorjax.operators.diffusion import diffuse as diffuse
from tumorjax.operators.diffusion import face_conductance as face_conductance
from tumorjax.operators.diffusion import largest_eigenvalue_bound as largest_eigenvalue_bound
from tumorjax.operators.diffusion import pair as pair
from tumorjax.operators.diffusion import spread as spread
from tumorjax.operators.elasticity import divergence as divergence
from tumorjax.operators.elasticity import elastic_force as elastic_force
from tumorjax.operators.elasticity import free_faces as free_faces
from tumorjax.operators.elasticity import gradient_on_faces as gradient_on_faces
from tumorjax.operators.elasticity import lame as lame
from tumorjax.operators.elasticity import stiffness as stiffness
from tumorjax.operators.equilibrium import Preconditioner as Preconditioner
from tumorjax.operators.equilibrium import solve_elasticity as solve_elasticity
from tumorjax.operators.fourier import Fourier as Fourier
from tumorjax.operators.interpolation import block_mean as block_mean
from tumorjax.operators.interpolation import spline_ball as spline_ball
from tumorjax.operators.multigrid import Multigrid as Multigrid
from tumorjax.operators.tensors import anisotropy_kept as anisotropy_kept
from tumorjax.operators.tensors import isotropic as isotropic
from tumorjax.operators.tensors import tensor_conductance as tensor_conductance
