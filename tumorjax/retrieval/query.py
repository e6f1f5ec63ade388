"""The function `query` for all variants of retrieval, and the index that it reads."""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from tumorjax.retrieval.direct import dice, first, outlines_of
from tumorjax.retrieval.downsampled import Downsampled, DownsampledMasks
from tumorjax.retrieval.folders import DamagedFolderError, new_folder, seal, unseal, usable
from tumorjax.retrieval.latent import Latent
from tumorjax.retrieval.masks import THRESHOLDS, PackedMasks, check_brain, check_thresholds, checked
from tumorjax.retrieval.radiomics import Radiomics
from tumorjax.retrieval.thresholds import best_thresholds

_KIND = "retrieval index, version 1"


class Writer(Protocol):
    """Writer of the data of a variant, some tumours at a time."""

    def append(self, densities: Shaped[np.ndarray, "b x y z"]) -> None:
        """Write the data of some tumours."""
        ...

    def close(self) -> None:
        """Finish the files."""
        ...


class Searcher(Protocol):
    """The data of a variant for n tumours, which it compares with a patient's."""

    def __len__(self) -> int:
        """Return the number of tumours."""
        ...

    def search(
        self, core: Bool[np.ndarray, "x y z"], lesion: Bool[np.ndarray, "x y z"], k: int
    ) -> tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k"]]:
        """Return the k most similar tumours, best first, and their scores; larger scores are better."""
        ...


class Variant(Protocol):
    """A way to compare tumours with a patient's outlines."""

    def writer(
        self, folder: Path, brain: Bool[np.ndarray, "x y z"], spacing: np.ndarray, thresholds: tuple[float, float]
    ) -> Writer:
        """Return a writer of the variant's data into a folder of its own."""
        ...

    def open(self, folder: Path, verify: bool = True) -> Searcher:
        """Open the data in a folder."""
        ...


# "ds64" and "ds32" are named after the paper's grid of 128^3. The last three need the weights of a network.
VARIANTS: Mapping[str, Variant] = {
    "direct": Downsampled(1),
    "ds64": Downsampled(2),
    "ds32": Downsampled(4),
    "radiomics": Radiomics(),
    "radiomics-standard": Radiomics(standardised=True),
    "ae": Latent("ae"),
    "vae": Latent("vae"),
    "bf-hash": Latent("bf-hash"),
}


@dataclass(frozen=True, eq=False)
class Matches:
    """The simulated tumours most similar to a patient's, best first.

    Attributes
    ----------
    indices
        (k,), indices of the tumours in the database.
    scores
        (k,), scores that determine the ranking, larger is better: a sum of two Dice coefficients, or minus a distance.
    dice_core, dice_lesion
        (k,), Dice coefficients of the outlines at full resolution, whatever the variant.
    thresholds
        (k, 2), densities at the outlines of core and lesion.
    seconds
        Duration of the query, s.
    """

    indices: Int[np.ndarray, "k"]
    scores: Float[np.ndarray, "k"]
    dice_core: Float[np.ndarray, "k"]
    dice_lesion: Float[np.ndarray, "k"]
    thresholds: Float[np.ndarray, "k 2"]
    seconds: float


@dataclass(frozen=True, eq=False)
class Index:
    """The index of a database: the data of n tumours on one grid that queries compare.

    Parameters
    ----------
    masks
        Outlines of all tumours.
    variants
        The data of each variant by its name; "direct" is always present.
    spacing
        Spacing of the grid, mm.
    source
        The database that this index was built from.
    """

    masks: PackedMasks
    variants: Mapping[str, Searcher]
    spacing: Float[np.ndarray, "3"]
    source: str

    def __len__(self) -> int:
        """Return the number of tumours."""
        return len(self.masks)

    @classmethod
    def build(
        cls,
        blocks: Iterable[Shaped[np.ndarray, "b x y z"]],
        brain: Bool[np.ndarray, "x y z"],
        spacing: float | tuple[float, float, float] | np.ndarray,
        folder: str | os.PathLike,
        *,
        thresholds: tuple[float, float] = THRESHOLDS,
        variants: Iterable[str] = ("direct",),
        weights: Mapping[str, str | os.PathLike] | None = None,
        source: str = "",
        overwrite: bool = False,
    ) -> "Index":
        """Write the index of many tumours into a folder, which appears complete or not at all, and return it.

        Parameters
        ----------
        blocks
            Blocks with the densities of some tumours each, as integers 0..255 (uint8) or fractions; they are read once.
        brain
            (x, y, z), boolean. Voxels outside the brain belong to no outline.
        spacing
            Distance between voxel centres along each axis, mm.
        folder
            A new folder, or, with `overwrite`, an existing index.
        thresholds
            Densities at the outlines of core and lesion.
        variants
            Names from `VARIANTS`: "direct" (always included), "ds64", "ds32", "radiomics", "ae", "vae", "bf-hash".
        weights
            Files of weights by the names of variants that need them, to replace those of the package. They are copied
            into the folder.
        source
            Identifies the database, so that `open` can refuse the index of another one.

        Raises
        ------
        ValueError
            If there is no tumour, shapes differ, densities are not fractions, the brain is empty, the thresholds are
            not 0 < lesion < core < 1, a variant is unknown or lacks its weights, or the folder exists.
        """
        brain, thresholds = check_brain(brain), check_thresholds(thresholds)
        steps = np.array(np.broadcast_to(np.asarray(spacing, float), (3,)))
        if not (np.isfinite(steps) & (steps > 0)).all():
            raise ValueError(f"spacing is a distance in mm along each axis, got {steps.tolist()}")
        wanted = set(variants) | {"direct"}
        if unknown := sorted(wanted - set(VARIANTS)):
            raise ValueError(f"unknown variants {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
        chosen = {name: variant for name, variant in VARIANTS.items() if name in wanted}
        for name, path in (weights or {}).items():
            if not isinstance(chosen.get(name), Latent):
                raise ValueError(f"weights are given for {name!r}, which is not built or needs none")
            chosen[name] = Latent(name, path)
        with new_folder(folder, overwrite) as partial:
            writers = []
            for name, variant in chosen.items():
                (partial / name).mkdir()
                writers.append(variant.writer(partial / name, brain, steps, thresholds))
            for densities in checked(blocks, brain.shape):
                for writer in writers:
                    writer.append(densities)
            for writer in writers:
                writer.close()
            seal(partial, _KIND, spacing=steps.tolist(), variants=list(chosen), source=source)
        # The files were written just now, so they need no verification.
        return cls.open(folder, verify=False)

    @classmethod
    def open(cls, folder: str | os.PathLike, *, source: str | None = None, verify: bool = True) -> "Index":
        """Open the index in a folder; outlines stay on the disk until they are read.

        Parameters
        ----------
        folder
            A folder that `build` wrote.
        source
            The database that the index must belong to; None accepts any.
        verify
            Compare all files with their checksums, which reads each of them once per process (one second per
            gigabyte). Without it, damaged files go unnoticed.

        Raises
        ------
        ValueError
            If the folder contains something else or the index of another database, is damaged, or is incomplete.
        """
        facts, _ = unseal(folder, _KIND, verify)
        with usable(folder):
            found, variants, spacing = facts["source"], facts["variants"], np.array(facts["spacing"], float)
            if "direct" not in variants or not set(variants) <= set(VARIANTS) or spacing.shape != (3,):
                raise ValueError(f"it lists {variants!s:.80}")
        if source is not None and found != source:
            raise ValueError(f"{folder} is the index of another database ({found!r:.80}); build it again")
        opened = {name: VARIANTS[name].open(Path(folder) / name, verify) for name in variants}
        direct = opened["direct"]
        if not isinstance(direct, DownsampledMasks) or len({len(variant) for variant in opened.values()}) > 1:
            raise DamagedFolderError(
                f"{folder} cannot be used: its variants differ in their tumours; remove it and build it again"
            )
        return cls(direct.masks, opened, spacing, found)


def query(
    index: Index,
    core: Bool[np.ndarray, "x y z"],
    lesion: Bool[np.ndarray, "x y z"],
    k: int = 1,
    *,
    method: str = "direct",
    densities: Callable[[int], Shaped[np.ndarray, "x y z"]] | None = None,
    candidates: int = 100,
) -> Matches:
    """Return the k tumours of an index that are most similar to a patient's [1]_.

    Parameters
    ----------
    index
        Index of the simulated tumours.
    core, lesion
        The patient's outlines on the index's grid: (x, y, z), boolean or labels 0 and 1. Voxels outside the brain count
        towards their volumes.
    k
        Number of tumours to return.
    method
        Measure of similarity. "direct": the sum of the Dice coefficients of both outlines. "ds64", "ds32": that sum on
        every second or fourth voxel. "radiomics": six features of shape, among the 1000 nearest tumours;
        "radiomics-standard": the same in units of their standard deviations. "ae", "vae", "bf-hash": the distance
        between codes of the outlines.
    densities
        Function that returns the density of a tumour as it was when the index was built. If given, the thresholds are
        optimised for each of the best `candidates`, which are then ranked by the sum of their Dice coefficients.
    candidates
        Number of candidates for this optimisation, at least k.

    Returns
    -------
    Matches
        The tumours, best first; among equal scores, the lower index comes first.

    Raises
    ------
    ValueError
        If an outline is empty or on another grid, there are fewer than k tumours or candidates, or the index was built
        without the method.

    References
    ----------
    .. [1] I. Ezhov et al., "Casting the inverse problem as a database query. The case of personalized tumor growth
       modeling", section 2.3.
    """
    begun = time.perf_counter()
    core, lesion = (_outline(name, mask, index) for name, mask in (("core", core), ("lesion", lesion)))
    if method not in VARIANTS:
        raise ValueError(f"unknown method {method!r}; there are {', '.join(VARIANTS)}")
    if method not in index.variants:
        raise ValueError(f"the index was built without {method!r}, it has {', '.join(index.variants)}; build it again")
    if not 1 <= k <= len(index):
        raise ValueError(f"the index has {len(index)} tumours, so k is between 1 and that, got {k}")
    if densities is not None and candidates < k:
        raise ValueError(f"k is at most the number of candidates, got {k} of {candidates}")
    found = k if densities is None else min(candidates, len(index))
    rows, scores = index.variants[method].search(core, lesion, found)
    if densities is None:
        both = dice(index.masks, outlines_of(index.masks, core, lesion), rows)
        thresholds = np.repeat(np.array(index.masks.thresholds)[:, None], k, axis=1)
    else:
        thresholds, both = best_thresholds(index.masks, densities, rows, core, lesion)
        scores = both.sum(axis=0)
        best = first(k, -scores, rows)
        rows, scores, both, thresholds = rows[best], scores[best], both[:, best], thresholds[:, best]
    return Matches(rows, scores, both[0], both[1], thresholds.T, time.perf_counter() - begun)


def _outline(name: str, mask: Any, index: Index) -> Bool[np.ndarray, "x y z"]:
    mask = np.asarray(mask)
    if mask.shape != index.masks.shape:
        raise ValueError(f"the {name} has shape {mask.shape}, the index {index.masks.shape}; resample it to that grid")
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise ValueError(f"the {name} must be an outline of zeros and ones, got other values; select labels first")
    if not mask.any():
        raise ValueError(f"the {name} is empty, so no tumour is similar to it; check the segmentation's labels")
    return mask.astype(bool)
