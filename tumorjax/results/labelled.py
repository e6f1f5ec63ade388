"""The images of a personalization as an xarray.Dataset, for analysis in Python."""

from typing import TYPE_CHECKING, Any

import numpy as np

from tumorjax.text import printable

if TYPE_CHECKING:
    from tumorjax.results.personalization import Personalization

_UNITS = {"displacement": "mm", "displacement_std": "mm", "displacement_norm": "mm"}
_MEANINGS = {
    "density": "tumour cells, as a fraction of the carrying capacity",
    "density_std": "standard deviation of the density",
    "plan": "target volume of the model",
    "standard_plan": "target volume of the clinical margin",
    "recurrence": "tumour at follow-up",
    "displacement": "movement of the tissue that is here now, along the axes of RAS",
    "displacement_std": "root mean square distance of the displacement from this mean",
    "displacement_norm": "length of the displacement",
    "jacobian": "enlargement of the tissue",
    "truth": "true density of a synthetic patient",
}


def labelled(result: "Personalization") -> Any:
    """Return the images of a personalization as an xarray.Dataset; see `Personalization.to_xarray`."""
    try:
        import xarray
    except ImportError as error:
        raise ImportError("this needs xarray; install it with: pip install xarray") from error
    affine = np.asarray(result.patient.reference.affine, float)
    images: dict[str, Any] = {name: getattr(result, name) for name in _MEANINGS}
    images |= {name: mask for name, mask in (("core", result.patient.core), ("lesion", result.patient.lesion))}
    images |= {f"predicted_{name}": image for name, image in result.predicted.items()}
    found = {}
    for name, image in images.items():
        if image is None:
            continue
        dims = ("i", "j", "k", "axis")[: np.ndim(image)]
        about = {"units": _UNITS.get(name, ""), "long_name": _MEANINGS.get(name, name.replace("_", " "))}
        found[printable(name)] = (dims, np.asarray(image), about)
    for name, several, across in (
        ("probability", result.probabilities, "threshold"),
        ("credible", result.credible, "credibility"),
    ):
        if several:
            found[name] = ((across, "i", "j", "k"), np.stack(list(several.values())), {})
    shape = result.density.shape
    coords: dict[str, Any] = {axis: np.arange(n) for axis, n in zip("ijk", shape, strict=True)}
    # The place of every voxel, whatever the axes of the image.
    places = np.moveaxis(np.indices(shape, dtype=float), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    for number, axis in enumerate("xyz"):
        about = {"units": "mm", "long_name": f"{axis} in RAS world coordinates"}
        coords[axis] = (("i", "j", "k"), places[..., number].astype(np.float32), about)
    coords |= {"axis": list("xyz")} if result.displacement is not None else {}
    coords |= {
        across: list(several)
        for across, several in (("threshold", result.probabilities), ("credibility", result.credible))
        if several
    }
    about = {"title": result.title, "quality": str(result.quality.value), "affine": affine.ravel().tolist()}
    return xarray.Dataset(found, coords=coords, attrs=about)
