"""Figures on the pages agree with the records of benchmarks, and records state their origin."""

import functools
import json
import re
import struct
import tomllib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks import multi_atlas, neural_posterior, suite
from benchmarks.multi_atlas.published import ROWS
from benchmarks.record import Record
from tumorjax.cli.parser import command_parser
from tumorjax.growth import FisherKolmogorov, MassEffect
from tumorjax.methods.registry import default_method

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def recorded(name):
    """The records of a file, by name."""
    return {each["name"]: each for each in json.loads((RESULTS / f"{name}.json").read_text())["records"]}


def page(name):
    """The text of a page, as one line."""
    return " ".join((ROOT / name).read_text().split())


# Of each real patient who was seen twice.
FOLLOWED = ("speed", "speed_low", "speed_high", "dice", "margin_dice", "no_change_dice", "volume_rank")

# Page, text with a format for each figure, file, and the figures: a record, or of its details what follows the colon.
SHOWN = [
    ("README.md", "Dice coefficient of {:.2f}*", "demo", ["demo_dice_density_0.01"]),
    (
        "docs/results/comparison.md",
        "of `LBFGS` in {:.0%} of the cases, of `TMCMC` in {:.0%}, of `NUTS` in {:.0%}, of `NeuralPosterior` in {:.0%}.",
        "compare",
        [f"{name}_plain_coverage_90" for name in ("LBFGS", "TMCMC", "NUTS", "NeuralPosterior")],
    ),
    (
        "docs/results/comparison.md",
        "those of `LBFGS` contain {:.0%} of the true values, of `TMCMC` {:.0%}, of `NUTS` {:.0%}, of `NeuralPosterior` "
        "{:.0%}, of `AmortizedPosterior` {:.0%}.",
        "compare",
        [
            f"{name}_displaced_coverage_90"
            for name in ("LBFGS", "TMCMC", "NUTS", "NeuralPosterior", "AmortizedPosterior")
        ],
    ),
    ("docs/results/comparison.md", "it by [{:.0%} in the median]", "compare", ["pushing_displacement_field_error"]),
    (
        "docs/results/comparison.md",
        "{:.0f} s once compiled, for {:.0f} with `TMCMC` and {:.0f} with `NUTS`.",
        "compare",
        [f"{name}_seconds_compiled" for name in ("AmortizedPosterior", "TMCMC", "NUTS")],
    ),
    (
        "docs/results/comparison.md",
        "intervals hold {:.0%} of the truths of these patients, {:.0%} of the others'.",
        "compare",
        ["MultiAtlas_displaced_coverage_90", "MultiAtlas_plain_coverage_90"],
    ),
    *(
        (
            "docs/results/calibration.md",
            f"| {what} | {{:.3f}} | {{:.3f}} | {{:.3f}} | {{:g}} | {{:.2f}} |",
            "weak_constraint",
            [
                f"{name}_dice_sum_lbfgs",
                f"{name}_dice_sum",
                f"{name}_dice_sum_without_physics",
                f"{name}_dice_sum:forcing_deviation",
                f"{name}_dice_sum:held_out_gained_by_forcing",
            ],
        )
        for name, what in (("fet", "with PET, ragged"), ("mri", "with MRI only, ragged"), ("large", "large"))
    ),
    *(
        (
            "docs/results/calibration.md",
            f"| {what} |" + " {:.3f} |" * 6,
            "weak_constraint",
            [
                f"{name}_dice_sum{of}:deviation:{shell} mm"
                for of in ("_lbfgs", "")
                for shell in ("0 to 5", "5 to 10", "10 to 20")
            ],
        )
        for name, what in (("fet", "with PET, ragged"), ("mri", "with MRI only, ragged"), ("large", "large"))
    ),
    (
        "docs/results/calibration.md",
        "in {:.3f} with `LBFGS`, and in {:.3f} with `WeakConstraint`, where the tumours are of the fitted model; in "
        "{:.3f} and {:.3f} where they push.",
        "weak_constraint",
        [f"{kind}_held_90{of}" for kind in ("synthetic", "pushing") for of in ("_lbfgs", "")],
    ),
    (
        "docs/results/calibration.md",
        "constraint covers {:.3f} and the one without physics {:.3f};",
        "weak_constraint",
        ["fet_dice_sum:coverage_plan", "fet_coverage_without_physics"],
    ),
    *(
        (
            "docs/results/calibration.md",
            f"| {what} | {{:.3f}} | {{:.3f}} | {{:.3f}} |",
            "weak_constraint",
            [f"{kind}_dice_01{of}" for of in ("_lbfgs", "", "_without_physics")],
        )
        for kind, what in (("synthetic", "of the fitted model"), ("pushing", "that push"))
    ),
    *(
        (
            "docs/results/posteriors.md",
            f"| {what} | {' | '.join([each] * len(targets))} | {end}",
            "samplers",
            [
                f"{target}_{name}_effective_a_thousand_gradients{detail}"
                for target in targets
                for detail in ("", ":of squares", ":r_hat")
            ]
            + [f"patient_{name}_effective_per_second_of_processor"] * ("patient" in targets),
        )
        for each in ("{:.1f} / {:.1f}, {:.2f}",)
        for what, name, targets, end in (
            ("`NUTS`", "nuts", ("gaussian", "banana", "patient"), "{:.1f} |"),
            ("`NUTS`, begun by Pathfinder", "nuts_from_pathfinder", ("gaussian", "banana"), "- | - |"),
            ("ChEES-HMC", "chees", ("gaussian", "banana", "patient"), "{:.1f} |"),
            ("adjusted MCLMC", "mclmc", ("gaussian", "banana", "patient"), "{:.1f} |"),
            ("MEADS, 16 chains", "meads", ("gaussian", "banana", "patient"), "{:.1f} |"),
        )
    ),
    *(
        (
            "docs/results/posteriors.md",
            f"| {what} | {{:.2f}}, {{:.0f}} | {{:.2f}}, {{:.0f}} | {{:.2f}}, {{:.0f}} |",
            "samplers",
            [
                f"{target}_{name}_evidence_error{detail}"
                for target in ("gaussian", "banana", "two_modes")
                for detail in ("", ":evaluations")
            ],
        )
        for what, name in (("`TMCMC`", "tmcmc"), ("adaptive tempered SMC", "smc"))
    ),
    (
        "docs/results/posteriors.md",
        "the two differ by {:.2f} nat (two runs each), with {:.0f} and {:.0f} likelihoods.",
        "samplers",
        [f"patient_evidences_apart{detail}" for detail in ("", ":tmcmc evaluations", ":smc evaluations")],
    ),
    ("docs/results/calibration.md", "takes {:.0f} s for the first time", "demo", ["demo_seconds_first"]),
    ("docs/results/calibration.md", "and {:.0f} s from then on", "demo", ["demo_seconds_again"]),
    (
        "docs/results/networks.md",
        "(it learnt from 3840) | {:.3f}; {:.3f}; {:.3f} | {:.3f}; {:.3f} | {:.3f} | {:.3f}, our solver {:.3f} |",
        "learned",
        [f"surrogate_dice_{level}" for level in ("02", "04", "08")]
        + [f"surrogate_error_{tissue}" for tissue in ("white_matter", "grey_matter", "csf")]
        + ["surrogate_seconds", "solver_seconds"],
    ),
    (
        "docs/results/networks.md",
        "the network that ships | {:.3f}; {:.3f}; {:.3f} | {:.3f}; {:.3f} | {:.3f} | |",
        "surrogate",
        [f"surrogate_published_{what}" for what in ("dice_02", "dice_04", "dice_08")]
        + [f"surrogate_published_error_{tissue}" for tissue in ("white_matter", "grey_matter", "csf")],
    ),
    (
        "docs/results/networks.md",
        "the {} tumours of the record {} have a coefficient at 0.2, and {} of these lie in the training's intervals, "
        "with a mean of {:.3f}.",
        "surrogate",
        [
            f"surrogate_published_dice_02:{detail}"
            for inside in ("tumours in the training's intervals",)
            for detail in ("tumours", "counted", inside, f"mean over {inside}")
        ],
    ),
    (
        "docs/results/networks.md",
        "another person's brain | {:.3f}; {:.3f}; {:.3f} |",
        "learned",
        [f"surrogate_dice_{level}:sri24" for level in ("02", "04", "08")],
    ),
    *(
        (
            "docs/results/networks.md",
            f"{text} | {{:{form}}} | {{:{form}}} |",
            "amortized",
            [f"amortized_{name}", f"amortized_uncorrected_{name}"],
        )
        for text, form, name in (
            ("central 90 % intervals hold the truth", ".3f", "coverage_90"),
            ("central 50 % intervals", ".3f", "coverage_50"),
            ("beside other work on two cores", ".2f", "seconds"),
        )
    ),
    (
        "docs/results/networks.md",
        "after 19,500 on coarse voxels | {:.3f}; {:.3f}; {:.3f} | {:.3f} | {:.2f} |",
        "learn_morph_infer",
        ["lmi_dice_001", "lmi_dice_01", "lmi_dice_08", "lmi_error_white_matter", "lmi_network_seconds"],
    ),
    (
        "docs/results/networks.md",
        "corrected by three solves | {:.3f}; {:.3f}; {:.3f} | {:.3f} | {:.2f} |",
        "learn_morph_infer",
        [
            f"lmi_corrected_{what}"
            for what in ("dice_001", "dice_01", "dice_08", "error_white_matter", "network_seconds")
        ],
    ),
    *(
        (
            "docs/results/networks.md",
            f"{what} | {{:.3f}}; {{:.3f}}; {{:.3f}} | {{:.3f}}; {{:.3f}}; {{:.3f}} | {{:.2f}} |",
            "learn_morph_infer_mass_effect",
            [f"lmi_mass_effect{which}_dice_{level}" for level in ("001", "01", "08")]
            + [f"lmi_mass_effect{which}_error_{tissue}" for tissue in ("white_matter", "grey_matter", "csf")]
            + [f"lmi_mass_effect{which}_network_seconds"],
        )
        for what, which in (
            ("the force known", ""),
            ("corrected by three solves", "_corrected"),
            ("the force inferred", "_inferred"),
            ("the force corrected, too", "_inferred_corrected"),
        )
    ),
    (
        "docs/results/networks.md",
        "(20 of them) | {:.3f}; {:.3f}; {:.3f} | {:.3f} | {:.0f} |",
        "learn_morph_infer",
        [f"lmi_refined_{what}" for what in ("dice_001", "dice_01", "dice_08", "error_white_matter", "seconds")],
    ),
    (
        "docs/results/posteriors.md",
        "corrected / network alone | {:.2f} / {:.2f} | {:.2f} / {:.2f} |",
        "learned",
        [f"{name}_rat_{start}_mean_error" for start in ("seed", "image") for name in ("npe", "npe_network")],
    ),
    (
        "docs/results/posteriors.md",
        "90 % region of highest density | {:.2f} | {:.2f} | {:.1f} | {:.1f} |",
        "neural_posterior",
        [f"npe{kind}_coverage_90" for kind in ("", "_truncated_network", "_weighted_corrected", "_weighted_network")],
    ),
    *(
        (
            "docs/results/posteriors.md",
            f"{text} | {{:.2f}} | {{:.2f}} |",
            "bayes",
            [f"coverage_{level}{of}" for level in (50, 90)],
        )
        for text, of in (
            ("drawn from the likelihood | all", ""),
            ("displaced as by readers | no correlation", "_correlated_counted_as_independent"),
            ("60 of the fitted model | displaced as by readers | the errors of readers", "_correlated"),
            *(
                (f"{what} | displaced as by readers | {known}", f"_wrong_model_{kind}{suffix}")
                for known, suffix in (("the errors of readers", "_without_model_error"), ("also the model's error", ""))
                for kind, what in (
                    ("pushing", "30 that push"),
                    ("fibres", "30 along fibres"),
                    ("threshold", "30 of varying threshold"),
                )
            ),
            ("these 90 together | displaced as by readers | also the model's error", "_wrong_model"),
        )
    ),
    *(
        ("docs/results/posteriors.md", text, "bayes", [f"{name}_seconds", f"{name}_seconds:stats:{count}"])
        for name, text, count in (
            ("tmcmc_2048_4mm", "2048 particles | {:.0f} s, {:,} solves |", "solves"),
            ("tmcmc_2048_4mm_from_laplace", "with its search | {:.0f} s, {:,} solves |", "solves"),
            ("nuts_4x500_4mm", "500 draws | {:.0f} s, {:,} gradients,", "gradients"),
            ("tmcmc_2048_2mm", "screened by coarse voxels | {:.0f} s, {:,} solves and", "solves"),
        )
    ),
    (
        "docs/results/posteriors.md",
        "the particles take {} stages instead of {},",
        "bayes",
        [f"tmcmc_2048_4mm{start}_seconds:stats:stages" for start in ("_from_laplace", "")],
    ),
    *(
        (
            "docs/results/posteriors.md",
            text + " | {:.1f} | {:.3f} |",
            "bayes",
            [f"{name}_effective_draws_per_second", f"{name}_effective_draws_a_solve"],
        )
        for name, text in (
            ("importance", "1000 draws"),
            ("nuts", "4 chains of 100 draws"),
            ("metropolis", "4 chains of 500 draws"),
            ("tmcmc", "an upper bound"),
        )
    ),
    (
        "docs/results/posteriors.md",
        "`ρ` {:.4f} /day, `T` {:.0f} days,",
        "bayes",
        [f"eleven_parameters_objective:{name}:0" for name in ("rho, 1/day", "T, day")],
    ),
    ("docs/results/posteriors.md", "the smallest p-value of nine parameters is {:.2f}", "bayes", ["sbc_smallest_p"]),
    (
        "docs/results/posteriors.md",
        "two unequal modes | {:.3f} / {:.3f} / {:.3f} / {:.3f} |",
        "bayes",
        [f"{target}_evidence_error_nats" for target in ("gaussian", "banana", "two_modes", "two_modes_unequal")],
    ),
    (
        "docs/results/posteriors.md",
        "(1024 particles) / NUTS (4 x 250) | {:.2f} / {:.2f} |",
        "bayes",
        ["quadrature_tmcmc_mean_error", "quadrature_nuts_mean_error"],
    ),
    *(
        ("docs/results/posteriors.md", f"{text} | {{:.2f}} | {{:.1f}} |", "readers", list(names))
        for text, names in (
            ("of each", ("reader_deviation_lesion", "reader_length_lesion")),
            ("of its core, the same", ("reader_deviation_core", "reader_length_core")),
            ("voxels of 4 mm, median", ("model_deviation_real", "model_length_real")),
            ("in each of three atlases", ("model_deviation_real_mass_effect", "model_length_real_mass_effect")),
            ("the fitted model does not know", ("model_deviation_pushing", "model_length_pushing")),
            ("that grow along fibres", ("model_deviation_fibres", "model_length_fibres")),
            ("a threshold that varies", ("model_deviation_threshold", "model_length_threshold")),
        )
    ),
    (
        "docs/results/solvers.md",
        "1 mm, s | {:.3f} / {:.3f} / {:.2f} |",
        "forward",
        [f"fk_{h}mm_seconds" for h in (4, 2, 1)],
    ),
    (
        "docs/results/solvers.md",
        "4 / 2 / 1 mm | {:.0f} / {:.0f} / {:.0f}, in {:.0f} steps |",
        "forward",
        [f"fk_{h}mm_seconds:evaluations of the operator" for h in (4, 2, 1)] + ["fk_2mm_seconds:steps"],
    ),
    *(
        ("docs/results/solvers.md", f"{text} | {{:{form}}} |", "forward", [name])
        for text, form, name in (
            ("by five parameters, 2 mm, in solves", ".1f", "gradient_ratio"),
            ("by all voxels of white matter", ".1f", "gradient_ratio_tissue"),
            ("around steps and segments instead", ".0f", "gradient_ratio_checkpoint"),
        )
    ),
    *(
        ("docs/results/solvers.md", f"{text} | {{:{form}}} |", "mass_effect", [name])
        for text, form, name in (
            ("2 mm, elasticity at 4 mm, s", ".2f", "mass_effect_2mm_seconds"),
            ("its value and gradient, in solves", ".1f", "mass_effect_gradient_ratio"),
        )
    ),
    ("docs/results/solvers.md", "one after another | {:.0f} |", "forward", ["loop_rate"]),
    ("docs/results/solvers.md", "of 32, over that rate | {:.2f} |", "forward", ["simulate_many_over_loop"]),
    (
        "docs/results/solvers.md",
        "of 32, of values / of gradients | {:.2f} / {:.2f} |",
        "forward",
        ["vmap_over_loop", "vmap_over_loop_gradient"],
    ),
    (
        "docs/results/solvers.md",
        "operation in place moves | {:.2f} / {:.2f} / {:.2f} |",
        "forward",
        [f"bandwidth_fraction_{h}mm" for h in (4, 2, 1)],
    ),
    *(
        (
            "docs/results/calibration.md",
            f"{text} | {{:.2f}} ({{:.2f}}) |",
            "personalize",
            [f"synthetic_{what}_{name}" for what in ("error", "deviation")],
        )
        for text, name in (("of mu1, mm", "mu1"), ("of mu2", "mu2"))
    ),
    *(
        (
            "docs/results/calibration.md",
            f"{text} | {{:.3f}} / {{:.3f}} |",
            "personalize",
            [f"{name}_dice_sum", f"{name}_icbm152_dice_sum"],
        )
        for text, name in (("SRI24 / ICBM152", "patient_fet"), ("patient with MRI only", "patient_mri"))
    ),
    *(
        (
            "docs/results/networks.md",
            f"| {text} | {{:.3f}}; {{:.3f}}; {{:.3f}} | {{:.3f}} |",
            "ablation",
            [f"ablation_{name}_dice_01:{what}" for what in ("dice_001", "dice_01", "dice_08", "error_white_matter")],
        )
        for text, name in (
            ("D, rho, T by one network, the seed by another", "DrhoT_xyz"),
            ("mu1, mu2 by one network, the seed by another", "mu1mu2_xyz"),
            ("mu1, mu2 and the seed by one", "mu1mu2xyz"),
        )
    ),
    *(
        (
            "docs/results/networks.md",
            f"| {text} | {{:.3f}}; {{:.3f}}; {{:.3f}} |",
            "ablation",
            [f"ablation_{name}_dice_02:surrogate_dice_{level}" for level in ("02", "04", "08")],
        )
        for text, name in (
            ("with skip connections", "skips"),
            ("sees the CSF alone", "csf_only"),
            ("one loss for the whole window", "one_loss"),
            ("loss of tumour, and of all the rest", "complement"),
            ("loss of tumour, CSF and other brain", "brain_too"),
            ("loss of tumour and CSF (proposed)", "proposed"),
        )
    ),
    *(
        (
            "docs/results/retrieval.md",
            f"| {count:,} | {{:.3f}} | {{:.4f}} | {{:.2f}} |",
            "retrieval",
            [f"direct_{count}_seconds_of_all{detail}" for detail in ("", ":pruned, s", ":dice sum")],
        )
        for count in (10_000, 20_000, 50_000)
    ),
    (
        "docs/results/calibration.md",
        "{:.3f} | | true values inside their 95 % intervals, over seven parameters | {:.3f} |",
        "personalize",
        ["synthetic_dice_0.01", "synthetic_coverage_95"],
    ),
    (
        "docs/results/retrieval.md",
        "| direct, pruned | {:.4f} | - | 100 % | 100 % | 100 % | - | {:.3f} |",
        "retrieval",
        ["direct_50k_pruned_seconds", "direct_dice_sum"],
    ),
    *(
        (
            "docs/results/retrieval.md",
            f"| {name} | {{:.3f}} |",
            "retrieval",
            [f"{name.replace('-', '_')}_query_seconds"],
        )
        for name in ("ds64", "ds32", "ae", "vae", "bf-hash", "radiomics")
    ),
    *(
        (
            "docs/results/mass_effect.md",
            f"| `patient_{name}` | {{:.3f}} | {{:.3f}} | {{:.0f}} | {{:.1f}} |",
            "multi_atlas_command",
            [f"{name}_{figure}" for figure in ("dice_sum", "plain_growth_dice_sum", "seconds", "peak_memory")],
        )
        for name in ("large", "mri")
    ),
    (
        "docs/results/mass_effect.md",
        "| median | {:.3f} | {:.3f} |",
        "compare",
        ["pushing_dice_01", "pushing_displacement_field_error"],
    ),
    (
        "docs/results/mass_effect.md",
        "all {:.0f} intervals {:.0%} contain",
        "compare",
        ["pushing_coverage_90:of", "pushing_coverage_90"],
    ),
    (
        "docs/results/mass_effect.md",
        "Value and gradient cost {:.1f} and {:.1f} solves.",
        "mass_effect",
        ["mass_effect_gradient_ratio", "4mm_mass_effect_gradient_ratio"],
    ),
    (
        "docs/results/visits.md",
        "cost {:.1f} solves with three visits on 2 mm voxels, and {:.1f} with one",
        "visits",
        ["gradient_ratio_three_visits", "gradient_ratio_one_visit"],
    ),
    *(
        (
            "docs/results/visits.md",
            f"| {name} | {{:.3f}} ({{:.3f}} to {{:.3f}}) | {{:.3f}} | {{:.3f}} | {{:.3f}} | {{:.2f}} |",
            "follow_up",
            [f"follow_up_{name}_{figure}" for figure in FOLLOWED],
        )
        for name in ("a", "b")
    ),
    *(
        (
            "docs/results/visits.md",
            f"{name} | {{:.0%}} of {{:.0f}} | {{:.2f}} |",
            "visits",
            [f"{key}_coverage_90", f"{key}_coverage_90:patients", f"{key}_deviation_over_prior"],
        )
        for name, key in (("speed, two visits", "speed"), ("radiosensitivity α, three visits", "alpha"))
    ),
    *(
        (
            "docs/results/visits.md",
            f"| Fisher-Kolmogorov, {text} | {{:.0%}} | {{:.2f}} | {{:.0%}} |",
            "visits",
            [f"rat_{name}{figure}" for figure in ("error_cells", "concordance", "coverage_90")],
        )
        for text, name in (("constant rates", ""), ("rates that fall with time", "falling_rates_"))
    ),
    (
        "docs/results/visits.md",
        "the same with constant rates and mass effect | {:.0%} | {:.2f} | {:.0%} |",
        "rat_mass_effect",
        [f"rat_mass_effect_{figure}" for figure in ("error_cells", "concordance", "coverage_90")],
    ),
    (
        "docs/results/visits.md",
        "no change since day 16 | {:.0%} | {:.2f} |",
        "visits",
        ["no_change_error_cells", "no_change_error_cells:concordance"],
    ),
    *(
        ("docs/results/visits.md", f"| {name} law | {{:.0%}} |", "visits", [f"{name.lower()}_error_cells"])
        for name in ("logistic", "Gompertz", "exponential")
    ),
    *(
        ("docs/results/mass_effect.md", f"| {name} | {{:g}} | {{:.1f}} |", "mass_effect", [f"{key}:published", key])
        for name in "abcd"
        for key in [f"case_{name}_tanh_displacement"]
    ),
    *(
        (
            "docs/results/mass_effect.md",
            f"| {label} | " + " | ".join(["{:.3f}"] * 8) + " |",
            file,
            [
                *(f"{name}_{row}_error{kind}" for row in ROWS),
                *(f"{name}_{row}_error_of_the_mean{kind}" for row in ("displacement_field", "tumour")),
            ],
        )
        for label, file, name, kind in (
            *(
                (
                    f"{case}, {seen}, {atlases}",
                    "unknown_anatomy_affine",
                    f"unknown_anatomy_{case}",
                    f"{'_from_outlines' * (seen == 'outlines')}{'_in_real_atlases' * (atlases == 'real')}"
                    "_behind_affine_maps",
                )
                for case in "abcd"
                for seen in ("density", "outlines")
                for atlases in ("real", "random")
            ),
            *(
                (
                    f"{case}, density, random, published settings",
                    "unknown_anatomy_published",
                    f"unknown_anatomy_{case}",
                    "_by_published_settings_behind_affine_maps",
                )
                for case in "cd"
            ),
            *((f"{case}, density, random, turns", "unknown_anatomy", f"unknown_anatomy_{case}", "") for case in "cd"),
            ("affine", "unknown_anatomy_ablation", "4mm_unknown_anatomy_d", "_behind_affine_maps"),
            (
                "affine, without the map of fluid",
                "unknown_anatomy_ablation",
                "4mm_unknown_anatomy_d",
                "_without_fluid_behind_affine_maps",
            ),
            ("turns", "unknown_anatomy_ablation", "4mm_unknown_anatomy_d", ""),
            ("turns, without S.4", "unknown_anatomy_ablation", "4mm_unknown_anatomy_d", "_without_refinement"),
        )
    ),
]


def _at(tree, key):
    return tree[int(key) if isinstance(tree, list) else key]


@pytest.mark.parametrize(("where", "text", "file", "names"), SHOWN)
def test_pages_show_what_was_recorded(where, text, file, names):
    found, values = recorded(file), []
    for name in names:
        which, *keys = name.split(":")
        values.append(functools.reduce(_at, ["details", *keys] if keys else ["value"], found[which]))
    assert re.sub(r"(?<=\d)%", " %", text.format(*values)) in page(where)


def test_the_page_shows_which_growth_of_the_rat_the_evidence_prefers():
    others = recorded("visits")
    pushing = recorded("rat_mass_effect")["rat_mass_effect_log_evidence"]["value"]
    falling, constant = (
        pushing - others[name]["value"] for name in ("rat_falling_rates_log_evidence", "rat_log_evidence")
    )
    text = f"by {falling:.0f} nat over rates that fall and by {constant:.0f} nat over constant rates without it"
    assert text in page("docs/results/visits.md")


def test_the_page_shows_the_inversions_with_a_known_anatomy():
    found, text = recorded("known_anatomy"), (ROOT / "docs" / "results" / "mass_effect.md").read_text()
    rows = re.findall(r"^\| ([abcd]) \| (true|inverted) \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) == 8
    for name, seed, cells in rows:
        for row, cell in zip(ROWS, cells.split(" | "), strict=True):
            value = found[f"{seed}_seed_{name}_{row}_error"]["value"]
            assert cell.split(" ")[0] == f"{value:.3f}", (name, seed, row)


def test_the_page_shows_how_many_solves_were_needed():
    found, text = recorded("learned"), page("docs/results/posteriors.md")
    for label, name in (
        ("`NeuralPosterior`, corrected", "npe"),
        ("the network alone", "npe_network"),
        ("`TMCMC`", "tmcmc"),
    ):
        cells = []
        for level in (0.2, 0.1):
            each = found[f"{name}_solves_for_{level}"]
            bound, value = each["details"]["bound"], each["value"]
            cells.append(f"{bound} {value:,.0f}".strip() if value >= 1000 or bound else f"{value:.0f}")
        assert f"| {label} | {cells[0]} | {cells[1]} |" in text


def test_recorded_solves_follow_from_their_runs():
    found = [each for name, each in recorded("learned").items() if "_solves_for_" in name]
    details = dict(found[0]["details"])
    curves = details.pop("solves, error in standard deviations, seconds")
    again = neural_posterior.needed(
        curves, {"effective draws of the reference": details.pop("effective draws of the reference")}
    )
    assert [asdict(each) for each in again] == found


@pytest.mark.parametrize("name", ("patient_fet", "patient_mri", "patient_large"))
def test_the_page_shows_real_patients_in_four_atlases(name):
    found = {each: record["value"] for each, record in recorded("real_patients").items()}
    growth = f"{found[f'{name}_rho']:.1f} ± {found[f'{name}_rho_spread']:.1f}"
    push = f"{found[f'{name}_largest_displacement']:.1f} ± {found[f'{name}_largest_displacement_spread']:.1f}"
    text = page("docs/results/mass_effect.md")
    assert re.search(
        rf"\| `{name}` \| [^|]* \| {growth} \| [^|]* \| {push} \| {found[f'{name}_dice_sum']:.2f} \|", text
    )


def test_recorded_means_follow_from_their_cases():
    found = [Record(**each) for each in recorded("known_anatomy").values()]
    means = [each for each in found if "averaged_over" in each.name]
    assert means == multi_atlas.summary(found) != []


def test_the_page_shows_each_patient_whose_tumour_pushes():
    found, text = recorded("compare"), page("docs/results/mass_effect.md")
    dice, field, bias = (
        found[name]["details"]["each"]
        for name in ("pushing_dice_01", "pushing_displacement_field_error", "pushing_gamma_bias")
    )
    assert len(dice) == 10
    for name in dice:
        error = f"{100 * bias[name]:+.0f} %".replace("-", "−")
        assert f"| {name[-2:]} | {dice[name]:.3f} | {field[name]:.3f} | {error} |" in text
    assert f"| {100 * found['pushing_gamma_bias']['value']:+.0f} % |".replace("-", "−") in text


def test_the_pages_say_how_far_mass_effect_is_underestimated():
    errors = recorded("compare")["MultiAtlas_displaced_error_mass_effect"]["details"]["each"]
    relative = {name: error / suite.mass_effect(suite.SYNTHETIC.index(name)) for name, error in errors.items()}
    assert (len(errors), sum(error < 0 for error in errors.values())) == (10, 7)
    size, signed = (100 * np.median(each) for each in (np.abs(list(relative.values())), list(relative.values())))
    text = page("docs/results/comparison.md")
    assert f"median size of the error is {size:.0f} % of the truth" in text
    assert f"with its sign is −{-signed:.0f} %" in text
    assert f"the median error of its strength is {size:.0f} %" in page("README.md")


def test_what_readme_calls_a_method_of_the_command_is_one():
    (line,) = re.findall(r"`tumorjax personalize --method` with (.*?);", page("README.md"))
    for name in re.findall(r"`([a-z-]+)`", line):
        assert command_parser().parse_args(["personalize", "--segmentation", "s.nii", "--method", name, "--out", "o"])
    assert default_method(MassEffect) == "multi-atlas" and default_method(FisherKolmogorov) == "lbfgs"
    assert default_method(MassEffect, several_visits=True) == "lbfgs"
    said = "`multi-atlas` is the default for `--model mass-effect`, and `lbfgs` for every other model"
    assert f"{said} and for several visits" in page("README.md")


def test_the_home_page_lists_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    assert sorted(name for line in listed for name in re.findall(r"`(\w+)`", line)) == sorted(extras)


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_a_file_that_no_command_wrote_says_so(file):
    content = json.loads(file.read_text())
    if content["size"] not in ("small", "full"):
        assert content["notes"]


@pytest.mark.parametrize(
    "file", sorted((ROOT / "tumorjax" / "networks" / "trained").iterdir()), ids=lambda file: file.name
)
def test_weights_that_ship_are_what_contributing_permits(file):
    assert file.suffix == ".safetensors" and file.stat().st_size < 10e6
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        about = json.loads(json.loads(stream.read(length))["__metadata__"]["tumorjax"])["about"]
    assert {"database", "tumours", "steps", "seed"} <= set(about)


@pytest.mark.parametrize(
    "where", ["README.md", *sorted(f"docs/results/{path.name}" for path in (ROOT / "docs" / "results").glob("*.md"))]
)
def test_processors_are_named_as_records_have_them(where):
    cpus = {json.loads(file.read_text())["machine"]["cpu"] for file in RESULTS.glob("*.json")}
    speeds = {float(speed) for cpu in cpus for speed in re.findall(r"([\d.]+)GHz", cpu)}
    for speed in re.findall(r"([\d.]+) GHz", page(where)):
        assert float(speed) in speeds
