"""The multi-stage inversion of a single scan with mass effect, in several atlases."""

from tumorjax.methods.multi_atlas.atlas_mixture import AtlasMixture as AtlasMixture
from tumorjax.methods.multi_atlas.multi_atlas import MultiAtlas as MultiAtlas
