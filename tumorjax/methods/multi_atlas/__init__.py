"""The multi-stage inversion of a single scan with mass effect, in several atlases."""

from tumorjax.methods.multi_atlas.atlas_mixture import AtlasMixture as AtlasMixture
from tumorjax.methods.multi_atlas.coupled_brain import coupled_brain as coupled_brain
from tumorjax.methods.multi_atlas.coupling import can_couple as can_couple
from tumorjax.methods.multi_atlas.multi_atlas import MultiAtlas as MultiAtlas
