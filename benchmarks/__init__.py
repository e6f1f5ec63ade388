"""Measurements of speed and accuracy; `python -m benchmarks NAME --json FILE` runs one and writes its records."""
