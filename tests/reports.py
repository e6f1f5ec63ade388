"""A made-up report with every part, from no solve."""

from dataclasses import replace

import numpy as np

from tumorjax.calibration.estimates import Estimate
from tumorjax.report import ReportData, Stage
from tumorjax.sections import Curves, Draws, Section, Table, Text


def blob(shape, affine, middle, radii, softness=2.0):
    """Return an anisotropic smooth ellipsoid, about one inside and zero outside."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    distance = np.sqrt((((world - middle) / radii) ** 2).sum(axis=-1))
    return 1 / (1 + np.exp((distance - 1) * 8 / softness))


def head():
    """Return a made-up T1 image with folds and ventricles, its affine and brain mask; voxels are not cubes."""
    shape, affine = (56, 64, 36), np.diag([2.8, 3.0, 4.1, 1.0])
    affine[:3, 3] = (-78.0, -110.0, -60.0)
    x, y, z = (
        size * index + start
        for size, index, start in zip(np.diag(affine), np.indices(shape), affine[:3, 3], strict=False)
    )
    brain = (x / 68) ** 2 + ((y + 16) / 84) ** 2 + ((z - 8) / 62) ** 2 < 1
    folds = 0.75 + 0.15 * np.sin(x / 4) * np.sin(y / 5) * np.cos(z / 6)
    ventricles = ((np.abs(x) - 12) / 7) ** 2 + ((y + 12) / 32) ** 2 + ((z - 14) / 14) ** 2 < 1
    return np.where(ventricles, 0.2, folds) * brain, affine, brain


def chains(count=200):
    """Return draws of two correlated parameters in two chains, their prior, and their effective number."""
    z = np.random.default_rng(0).normal(size=(2, count, 2))
    x = np.linspace(-3, 3, 50)[:, None]
    return Draws(
        names=["diffusion length", "growth"],
        values=np.array([9.8, 2.1]) + z @ np.array([[0.4, -0.04], [0.0, 0.03]]),
        weights=np.ones((2, count)),
        prior=np.array([9.8, 2.1]) + x * [2.0, 0.5],
        prior_density=np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi) / [2.0, 0.5],
        mixing={"diffusion length": (1.0012, 345.6), "growth": (1.034, 123.4)},
    )


def sections(draws=None, title="Draws by a made-up sampler"):
    """Return sections of a made-up method with every kind of block."""
    rows = [["first", "75.0 %", 40000.0, 3.5], ["second", "25.0 %", 80000.0, None]]
    facts = Table(("", ""), [("effective draws", "321")], title="What the draws are worth")
    return [
        Section(
            "Spread over atlases",
            [
                Text("Each atlas stands for a brain."),
                Table(
                    ["Atlas", "Weight", "γ (Pa)", "μ1 (mm)"], rows, [["plain mean", None, 60000.0, 3.5]], "A caption."
                ),
            ],
        ),
        Section(title, [draws or chains(), facts]),
        Section("Convergence", [Curves("iteration", "objective", [[100.0, 10.0, 3.0], [90.0, float("inf"), 30.0]])]),
    ]


def particles():
    """Return draws of a sampler with stages."""
    ladder = {"temperature": [0.001, 0.1, 1.0], "acceptance": [0.5, 0.3, 0.2], "effective draws": [90.0, 100.0, 95.0]}
    return replace(
        chains(), values=chains().values.reshape(1, -1, 2), weights=np.ones((1, 400)), mixing={}, ladder=ladder
    )


def made_up():
    """Return a complete report on a made-up tumour in the right hemisphere of a made-up head."""
    t1, affine, brain = head()
    truth = blob(t1.shape, affine, (32, -10, 24), (17, 26, 15)) * brain
    density = blob(t1.shape, affine, (30, -8, 25), (18, 24, 16)) * brain
    tissue = np.where(brain, np.select([t1 > 0.75, t1 > 0.3], [3, 2], 1), 0)
    plan, standard = density > 0.02, blob(t1.shape, affine, (32, -10, 24), (32, 41, 30)) * brain > 0.5
    parameters = [
        Estimate(
            "diffusion length",
            "μ_1",
            9.8,
            0.4,
            "mm",
            "square root of diffusivity times time",
            truth=9.4,
            interval=(9.12, 10.46),
        ),
        Estimate("growth", "μ_2", 2.1, 0.05, "", "square root of proliferation rate times time", truth=2.3),
        Estimate("ratio", "R", 10.0, None, "", "white over grey matter", truth=10.0, fixed=True),
    ]
    return ReportData(
        title="A made-up patient",
        subtitle="made-up head",
        affine=affine,
        background=t1,
        brain=brain,
        core=truth > 0.6,
        lesion=truth > 0.2,
        density=density,
        density_std=0.3 * density * (1 - density),
        core_threshold=0.6,
        lesion_threshold=0.2,
        plan=plan,
        standard_plan=standard,
        pet=np.where(truth > 0.2, 3e4 * truth, 0.0),
        pet_predicted=2.9e4 * density,
        recurrence=blob(t1.shape, affine, (34, -30, 26), (9, 8, 9)) * brain > 0.5,
        truth=truth,
        parameters=parameters,
        metrics={
            "dice_core": 0.87,
            "dice_lesion": 0.9,
            "tumour_ml": 61.2,
            "plan_ml": 150.0,
            "coverage_plan": 0.93,
            "coverage_standard": 0.91,
            "seconds_total": 143.2,
            "max_displacement_mm": 8.66,
            "max_displacement_std_mm": 1.24,
            "volume_above_2mm_ml": 71.4,
            "brier": None,
        },
        correlation=(["diffusion length", "growth"], np.array([[1.0, -0.7], [-0.7, 1.0]])),
        stages=[Stage("calibrate", 80.0), Stage("report", 3.0)],
        provenance={"command": "tumorjax calibrate", "tumorjax": "0.1.0"},
        notes=["A note."],
        displacement=9 * density * brain,
        displacement_std=2 * density * brain,
        jacobian=1 + 0.4 * density * (1 - 2 * truth),
        probability=np.clip(1.5 * density, 0, 1) * brain,
        credible_volumes=[("density > 0.01", 61.23, 98.76)],
        uncertainty="Standard deviation of the density, given the data.",
        sections=sections(),
        tissue=tissue.astype(np.uint8),
        tissue_of="the tissue of the atlas of nobody, aligned with the patient",
        atlas=np.roll(t1, 1, axis=0),
        atlas_title="nobody",
        methods=["Growth was described by a model [1]."],
        references=["A. Author, A work, A journal 1 (2000)."],
    )
