"""One simulation on several devices is the simulation on one, to rounding, and so is its gradient."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from tests.problems import ball_brain
from tumorjax import FisherKolmogorov, ScaledGrowthParams, simulate

# What each process prints: by how much several devices differ from one, in units of the largest number.
SCRIPT = """
import json, sys
import jax
if len(sys.argv) > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh
from tests.problems import ball_brain
from tumorjax import FisherKolmogorov, MassEffect, MassEffectParams, Radiotherapy, ScaledGrowthParams, simulate

# Traced, since the box of a concrete anatomy would be another domain for the displacement.
devices = np.array(jax.devices()).reshape(2, -1)
mesh = Mesh(devices, ("left-right", "back-front"))
anatomy = ball_brain((16, 12, 11), (5.0, 5.0, 5.5))
growth = ScaledGrowthParams(5.0, 2.0, np.array([1.0, -2.0, 3.0]))
dose = np.linspace(0, 4, 16)[:, None, None] * np.ones(anatomy.grid.shape)
course = Radiotherapy((30.0,), dose, alpha=0.1)
force = MassEffectParams(growth, 1e4)

def grown(model, mesh, treatments):
    @jax.jit
    def fields(params, anatomy):
        found = simulate(model, params, anatomy, treatments=treatments, throw=False, mesh=mesh)
        return {name: getattr(found, name) for name in ("density", "displacement") if getattr(found, name) is not None}
    return fields

def cells(model, mesh):
    def squares(params, anatomy):
        return (simulate(model, params, anatomy, throw=False, mesh=mesh).density ** 2).sum()

    return jax.jit(jax.grad(squares))

def difference(a, b):
    def gathered(x):
        return np.asarray(x if x.is_fully_addressable else process_allgather(x, tiled=True))

    whole = jax.tree.map(gathered, (a, b))
    return max(float(np.abs(x - y).max() / np.abs(x).max()) for x, y in zip(*map(jax.tree.leaves, whole)))

told, cases = {}, [("growth", FisherKolmogorov(), growth, (course,))]
if len(sys.argv) == 1:
    cases.append(("mass effect", MassEffect(coarsening=1), force, ()))
for name, model, params, treatments in cases:
    one, several = (grown(model, where, treatments)(params, anatomy) for where in (None, mesh))
    told[name] = difference(one, several)
    told[name + ", parts"] = len({tuple(map(str, s.index)) for s in several["density"].global_shards})
point = jax.tree.map(jnp.asarray, ScaledGrowthParams(5.0, 2.0, np.array([1.0, -2.0, 3.0]), 0.5))
slopes = [cells(FisherKolmogorov(), where)(point, anatomy) for where in (None, mesh)]
told["gradient"] = difference(*([s.mu1, s.mu2, s.origin] for s in slopes))
try:
    simulate(FisherKolmogorov(), growth, anatomy.pad((17, 12, 11)), mesh=mesh)
except ValueError as error:
    told["refused"] = str(error)
print(json.dumps(told))
"""


def started(*arguments, devices):
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(process):
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return json.loads(out.strip().splitlines()[-1])


def check(found):
    assert found["growth, parts"] == 4
    assert found["growth"] < 1e-12 and found["gradient"] < 1e-10
    assert "shared evenly by 2 x 2 devices; enlarge it by anatomy.pad((18, 12, 11))" in found["refused"]


def test_four_devices_of_one_process():
    found = told(started(devices=4))
    check(found)
    # Equilibria are found to a tolerance, whose last iterate depends on the order of sums.
    assert found["mass effect"] < 1e-8 and found["mass effect, parts"] == 4


def test_two_processes_with_two_devices_each():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [started(address, str(i), devices=2) for i in range(2)]
    try:
        for process in processes:
            check(told(process))
    finally:
        for process in processes:
            process.kill()


def test_a_grid_that_cannot_be_shared_evenly_is_refused():
    anatomy = ball_brain((9, 8, 7), (4.0, 4.0, 4.0))
    params = ScaledGrowthParams(5.0, 2.0, np.zeros(3))
    one = jax.devices()[:1]
    found = simulate(FisherKolmogorov(), params, anatomy, mesh=Mesh(np.array(one), ("x",)))
    np.testing.assert_allclose(found.density, simulate(FisherKolmogorov(), params, anatomy).density, atol=1e-12)
    with pytest.raises(ValueError, match="three axes"):
        simulate(FisherKolmogorov(), params, anatomy, mesh=Mesh(np.array(one).reshape(1, 1, 1, 1), tuple("abcd")))
