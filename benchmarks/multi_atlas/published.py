"""The tables of the multi-atlas paper, as printed, and the names of their rows.

References
----------
Subramanian, Scheufele, Himthani, Biros, "Multiatlas calibration of biophysical brain tumor growth models with mass
effect", MICCAI 2020: tables 1, 2, S2 and S3.
"""

ROWS = ("gamma", "rho", "kappa", "displacement", "displacement_field", "tumour")
"""Errors that are measured; the paper has all but that of the displacement as a field."""

TRUE_SEED = {
    "a": dict(gamma=4.44e-6, rho=2.26e-3, kappa=2.76e-3, displacement=4.63e-4, tumour=3.28e-3),
    "b": dict(gamma=1.50e-3, rho=2.69e-3, kappa=1.39e-2, displacement=7.27e-4, tumour=3.52e-3),
    "c": dict(gamma=1.32e-3, rho=2.50e-5, kappa=2.14e-4, displacement=1.49e-3, tumour=7.18e-4),
    "d": dict(gamma=2.17e-4, rho=1.00e-5, kappa=3.12e-4, displacement=4.61e-4, tumour=3.35e-4),
}
"""Table 1, with the true seed."""

INVERTED_SEED = {
    "a": dict(gamma=2.95e-3, rho=1.63e-1, kappa=2.08e-1, displacement=2.86e-1, tumour=2.42e-1),
    "b": dict(gamma=5.29e-2, rho=1.29e-1, kappa=1.94e-1, displacement=4.93e-3, tumour=2.12e-1),
    "c": dict(gamma=3.54e-2, rho=1.39e-1, kappa=2.55e-1, displacement=1.46e-2, tumour=1.65e-1),
    "d": dict(gamma=1.46e-2, rho=1.59e-1, kappa=2.16e-1, displacement=3.78e-2, tumour=1.88e-1),
}
"""Table 1, with the inverted seed."""

UNKNOWN_ANATOMY = {
    "a": dict(
        gamma=(1.30e-1, 5.86e-2, 1.88e-1),
        rho=(2.85e-1, 2.66e-1, 2.74e-1),
        kappa=(3.32e-1, 3.02e-1, 3.44e-1),
        displacement=(1.12e1, 5.39e0, 1.69e1),
        tumour=(4.76e-1, 4.36e-1, 4.84e-1),
    ),
    "b": dict(
        gamma=(1.40e-1, 1.86e-1, 1.07e0),
        rho=(2.37e-1, 2.25e-1, 2.02e-1),
        kappa=(1.20e-2, 1.86e-1, 5.54e-1),
        displacement=(2.40e-1, 2.66e-1, 8.76e-1),
        tumour=(3.85e-1, 3.42e-1, 3.99e-1),
    ),
    "c": dict(
        gamma=(5.84e-3, 2.08e-1, 6.08e-1),
        rho=(2.21e-1, 2.17e-1, 1.81e-1),
        kappa=(3.48e-1, 2.01e-1, 5.63e-1),
        displacement=(1.06e-1, 2.75e-1, 4.90e-1),
        tumour=(3.18e-1, 2.87e-1, 3.56e-1),
    ),
    "d": dict(
        gamma=(1.63e-2, 1.13e-1, 2.50e-1),
        rho=(2.15e-1, 2.35e-1, 2.06e-1),
        kappa=(2.65e-1, 9.27e-2, 5.46e-1),
        displacement=(1.21e-1, 2.00e-1, 2.39e-1),
        tumour=(3.37e-1, 3.04e-1, 2.79e-1),
    ),
}
"""Tables 2 (case d) and S2: atlases 1, 2 and 3. "True atlas" is what `INVERTED_SEED` has, in another run."""

REAL = {
    "ABO": dict(gamma=(0.878, 0.0397), rho=(13.7, 0.645), kappa=(7.36e-3, 1.77e-3), displacement=(20.9, 1.11)),
    "AMH": dict(gamma=(0.444, 0.333), rho=(14.6, 0.531), kappa=(9.98e-3, 5.00e-3), displacement=(5.55, 3.95)),
    "AAP": dict(gamma=(1.40, 0.0885), rho=(13.7, 0.863), kappa=(5.00e-3, 1.33e-6), displacement=(21.2, 0.94)),
    "ALU": dict(gamma=(1.08, 0.237), rho=(9.11, 0.181), kappa=(5.00e-3, 0.0), displacement=(9.23, 2.08)),
}
"""Table S3: mean and standard deviation over four atlases; the displacement is the largest one, in voxels of 0.9 mm."""

TARGETS = {"rho": "<= 0.08", "kappa": "<= 0.12", "displacement": "<= 0.02", "tumour": "<= 0.1"}
"""What the inversion with a known anatomy and an unknown seed should reach."""
