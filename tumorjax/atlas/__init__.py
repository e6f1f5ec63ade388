"""Atlases of healthy brains: built in, read from files, segmented from a T1 image, or randomly deformed."""

from tumorjax.atlas.family import atlas_family as atlas_family
from tumorjax.atlas.family import deformed_atlas as deformed_atlas
from tumorjax.atlas.images import AtlasImages as AtlasImages
from tumorjax.atlas.images import AtlasWarning as AtlasWarning
from tumorjax.atlas.load import KNOWN as KNOWN
from tumorjax.atlas.load import load_atlas as load_atlas
from tumorjax.atlas.segmentation import segment_tissue as segment_tissue
from tumorjax.atlas.ventricles import choose_atlases as choose_atlases
from tumorjax.atlas.ventricles import ventricle_mask as ventricle_mask
from tumorjax.atlas.ventricles import ventricle_volume as ventricle_volume
