"""One function at many points: the same values in the same order, however they are spread over cores and devices."""

import contextlib
import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tumorjax.integrate import DevicePool, each, in_parts

SHARED = {"slope": jnp.asarray(3.0), "name": "line"}


def line(shared, point):
    x, number = point
    return {"value": shared["slope"] * x.sum(), "number": number}


@pytest.mark.parametrize("count", (0, 1, 2, 7, 200))
def test_values_come_in_the_order_of_the_points(count):
    points = (np.arange(2.0 * count).reshape(count, 2), np.arange(count, dtype=np.int32))
    shares = []
    found = each(line, SHARED, points, progress=shares.append)
    np.testing.assert_allclose(found["value"], 3 * points[0].sum(axis=1), rtol=1e-15)
    np.testing.assert_array_equal(found["number"], points[1])
    assert shares == sorted(shares) and shares[-1] == 1


def test_parts_are_computed_little_ahead_of_the_one_that_is_taken():
    begun = set()

    def counting(shared, point):
        jax.debug.callback(lambda number: begun.add(int(number)), point)
        return point + shared

    numbers = np.arange(100, dtype=np.int32)
    parts = in_parts(counting, jnp.asarray(1, jnp.int32), numbers)
    taken = [int(next(parts)[0]) for _ in range(3)]
    jax.effects_barrier()
    assert taken == [1, 2, 3]
    assert len(begun) < 50
    assert [int(part[0]) for part in parts] == list(range(4, 101))


def test_threads_have_the_settings_of_the_caller():
    def kind(shared, point):
        # The default of the setting, in each thread: all of them trace a function that is new to each.
        return jnp.zeros(()) + point

    with jax.enable_x64(False):
        found = each(kind, None, np.zeros(40, np.float32))
    assert found.dtype == np.float32
    assert each(kind, None, np.zeros(40)).dtype == np.float64


def test_an_error_at_a_point_ends_all():
    def broken(shared, point):
        raise ZeroDivisionError("no such point")

    with pytest.raises(ZeroDivisionError, match="no such point"):
        each(broken, None, np.zeros(3))


def test_all_devices_take_part_and_one_if_told_so():
    script = """
import jax, numpy as np
from tumorjax.integrate import DevicePool, each, in_parts
assert len(jax.devices()) == 3
used = [part.devices() for part in in_parts(lambda shared, x: shared * x, jax.numpy.ones(2), np.arange(40.0))]
print(len(set.union(*used)))
with jax.default_device(jax.devices()[2]):
    alone = [part.devices() for part in in_parts(lambda shared, x: shared * x, jax.numpy.ones(2), np.arange(9.0))]
    print(set.union(*alone) == {jax.devices()[2]})
print(each(lambda shared, x: shared.sum() * x, jax.numpy.ones(2), np.arange(4.0)).tolist())

def place(device):
    return jax.numpy.zeros(()).devices() == {device}

# The default of all threads is another one than that of the thread that makes the pool.
jax.config.update("jax_default_device", jax.devices()[1])
for told in jax.devices():
    with jax.default_device(told), DevicePool() as pool:
        print(pool.devices == [told] and pool.submit(place).result())
with DevicePool() as outer:
    def inside(device):
        with DevicePool() as inner:
            return inner.devices == [device] and inner.submit(place).result()
    print([each.result() for each in [outer.submit(inside) for _ in range(8)]] == [True] * 8)
"""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    told = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines() == ["3", "True", "[0.0, 2.0, 4.0, 6.0]", *["True"] * 4]


def test_a_pool_lends_a_device_to_one_thread_at_a_time():
    begun, ended = threading.Barrier(2), []

    def meeting(device):
        begun.wait(timeout=60)
        ended.append(device)

    with DevicePool(2) as pool:
        assert pool.threads == 2 and pool.on_cpu
        # Two at once, or they would wait for each other in vain.
        for future in [pool.submit(meeting) for _ in range(4)]:
            future.result()
    assert ended == [jax.devices()[0]] * 4


def test_an_error_leaves_what_has_not_begun():
    go = threading.Event()
    with contextlib.suppress(ZeroDivisionError), DevicePool(1) as pool:
        running = pool.submit(lambda _: go.wait(60))
        later = pool.submit(lambda _: None)
        raise ZeroDivisionError
    assert later.cancelled() and not running.done()
    go.set()
    assert running.result()
