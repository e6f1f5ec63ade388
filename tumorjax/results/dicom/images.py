"""The plan as a segmentation (SEG), and the density as a parametric map, on the slices of the reference."""

import numpy as np
from highdicom import AlgorithmIdentificationSequence, VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.seg import Segmentation, SegmentDescription
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from tumorjax.io.dicom import Series
from tumorjax.results.dicom.identity import (
    WARNING,
    complete_headers,
    date_object,
    equipment,
    object_uids,
    software,
)
from tumorjax.results.dicom.placed import PlacedResult

# Codes of the standard's context groups, which other versions of pydicom name otherwise.
_SPATIAL = Code("309825002", "SCT", "Spatial and Relational Concept")
_TARGET = Code("228792002", "SCT", "Clinical target volume")
# The standard's families of algorithms have none for models; schemes that begin with 99 are private.
_FAMILY = Code("growth-model", "99TUMORJAX", "Model of tumour growth")


def segmentation(placed: PlacedResult) -> Dataset:
    """Return the plan as a binary segmentation with one segment."""
    series, kept = placed.series, placed.kept
    headers = complete_headers(series)
    series_uid, instance_uid = object_uids("segmentation", series, kept.digest)
    found = Segmentation(
        source_images=headers,
        pixel_array=_frames(series, placed.plan).astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[
            SegmentDescription(
                segment_number=1,
                segment_label="tumorjax plan",
                segmented_property_category=_SPATIAL,
                segmented_property_type=_TARGET,
                algorithm_type="AUTOMATIC",
                algorithm_identification=AlgorithmIdentificationSequence("tumorjax", _FAMILY, software()),
            )
        ],
        series_instance_uid=series_uid,
        series_number=9002,
        sop_instance_uid=instance_uid,
        instance_number=1,
        # Readers that do not look at the place of each frame need all of them.
        omit_empty_frames=False,
        content_label="RESEARCH",
        content_description=f"{WARNING} Quality: {kept.quality}",
        series_description="RESEARCH tumorjax plan",
        **equipment(),
    )
    date_object(found, "segmentation", kept.made, kept.digest)
    return found


def density_map(placed: PlacedResult) -> Dataset:
    """Return the density as a parametric map of floating-point numbers from 0 to 1."""
    series, kept = placed.series, placed.kept
    series_uid, instance_uid = object_uids("density map", series, kept.digest)
    found = ParametricMap(
        source_images=complete_headers(series),
        pixel_array=_frames(series, placed.density).astype(np.float32),
        series_instance_uid=series_uid,
        series_number=9003,
        sop_instance_uid=instance_uid,
        instance_number=1,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(
                lut_label="DENSITY",
                lut_explanation="density of tumour cells, as a share of the capacity",
                unit=codes.UCUM.NoUnits,
                value_range=(0.0, 1.0),
                slope=1.0,
                intercept=0.0,
            )
        ],
        voi_lut_transformations=[VOILUTTransformation(window_center=0.5, window_width=1.0)],
        content_label="RESEARCH",
        content_qualification="RESEARCH",
        content_description=f"{WARNING} Quality: {kept.quality}",
        series_description="RESEARCH tumorjax density of tumour cells",
        **equipment(),
    )
    # Else the standard asks for the side of a paired part.
    found.BodyPartExamined = "BRAIN"
    date_object(found, "density map", kept.made, kept.digest)
    return found


def _frames(series: Series, data: np.ndarray) -> np.ndarray:
    """Return an image as (frames, rows, columns), in the order of the reference's files or frames."""
    slices = np.ascontiguousarray(data.transpose(2, 1, 0))
    if series.frames is None:
        return slices
    found = np.empty_like(slices)
    found[series.frames] = slices
    return found
