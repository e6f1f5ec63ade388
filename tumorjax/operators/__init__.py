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
from tumorjax.operators.tensors import anisotropy_kept as anisotropy_kept
from tumorjax.operators.tensors import isotropic as isotropic
from tumorjax.operators.tensors import tensor_conductance as tensor_conductance
from tumorjax.operators.advection import Material as Material
from tumorjax.operators.advection import advect as advect
from tumorjax.operators.elasticity import free_faces as free_faces
from tumorjax.operators.elasticity import gradient_on_faces as gradient_on_faces
from tumorjax.operators.elasticity import lame as lame
from tumorjax.operators.elasticity import stiffness as stiffness
from tumorjax.operators.equilibrium import Preconditioner as Preconditioner
from tumorjax.operators.equilibrium import solve_elasticity as solve_elasticity
from tumorjax.operators.fourier import Fourier as Fourier
from tumorjax.operators.multigrid import Multigrid as Multigrid
import jax, jax.numpy as jnp
def face_flow(flow, shape, factor):
    if factor==1: return flow
    out=[]
    for a in range(3):
        f=flow[a]
        prev=jnp.pad(f,[(int(b==a),0) for b in range(3)])
        prev=jax.lax.slice_in_dim(prev,0,f.shape[a],axis=a)
        parts=[prev+(f-prev)*((i+1)/factor) for i in range(factor)]
        g=jnp.stack(parts,axis=a+1).reshape([n*(factor if b==a else 1) for b,n in enumerate(f.shape)])
        for b in range(3):
            if b!=a: g=jnp.repeat(g,factor,axis=b)
        out.append(g[tuple(slice(0,n) for n in shape)])
    return jnp.stack(out)
