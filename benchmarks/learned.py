"""All learned methods: surrogate, Learn-Morph-Infer, amortised posterior, neural posterior estimation."""

from benchmarks import amortized, inference, neural_posterior, surrogate
from benchmarks.record import Record


def run(size: str) -> list[Record]:
    """The figures of four benchmarks, which can also be run one by one."""
    return [*surrogate.run(size), *inference.run(size), *amortized.run(size), *neural_posterior.run(size)]
