"""All learned methods: the surrogate, Learn-Morph-Infer, and neural posterior estimation."""

from benchmarks import inference, neural_posterior, surrogate
from benchmarks.record import Record


def run(size: str) -> list[Record]:
    """The figures of three benchmarks, which can also be run one by one."""
    return [*surrogate.run(size), *inference.run(size), *neural_posterior.run(size)]
