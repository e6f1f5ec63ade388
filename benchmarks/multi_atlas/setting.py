"""How a table is measured, and the names of its figures."""

from dataclasses import dataclass
from typing import Any, Literal

from tumorjax import MultiAtlas

_OTHERS = {
    "seen": ("density", "from_outlines"),
    "atlases": ("random", "in_real_atlases"),
    "settings": ("ours", "by_published_settings"),
    "fluid": (True, "without_fluid"),
    "refine": (True, "without_refinement"),
    "finer": (2, "on_the_voxels_of_the_data"),
    "coupled": (True, "behind_affine_maps"),
}


@dataclass(frozen=True)
class Setting:
    """How a table is measured. What differs from the default is part of the names of its figures.

    Parameters
    ----------
    spacing
        Voxels of the inversion, mm.
    seen
        What the images show of the tumour: its whole "density", or "outlines" of core and lesion alone.
    atlases
        What stands for an unknown anatomy: the patient's healthy brain under "random" diffeomorphisms, or "real"
        brains of others.
    settings
        "ours", or the "published" ones of `MultiAtlas.published`.
    fluid
        Whether the images show the fluid.
    refine
        Whether the growth is refined together with the seed (S.4); not by published settings.
    finer
        How many voxels of the data are as long as one of the inversion.
    coupled
        Whether registration and growth take turns in atlases; not by published settings.
    """

    spacing: int = 2
    seen: str = "density"
    atlases: str = "random"
    settings: str = "ours"
    fluid: bool = True
    refine: bool = True
    finer: int = 2
    coupled: bool = True

    @property
    def healthy(self) -> Literal["affine", "coupled"]:
        """What stands for the brain before the tumour, as `personalize` names it."""
        return "coupled" if self.coupled and self.settings == "ours" else "affine"

    def name(self, question: str, figure: str) -> str:
        """Return the name of a figure: the tables' voxels, of 2 mm, are not mentioned."""
        others = [word for field, (default, word) in _OTHERS.items() if getattr(self, field) != default]
        return "_".join([*([f"{self.spacing}mm"] if self.spacing != 2 else []), question, figure, *others])

    def method(self, atlases: tuple[Any, ...]) -> MultiAtlas:
        """Return the method in these atlases."""
        if self.settings == "published":
            return MultiAtlas.published(atlases)
        coarsening = 2 if self.spacing < 4 else 1
        return MultiAtlas(atlases, coarsening=coarsening, refine=self.refine)
