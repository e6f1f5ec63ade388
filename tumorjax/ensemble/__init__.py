"""Databases of simulated tumours: drawn from a prior, grown in one anatomy, and stored with checksums."""

from tumorjax.ensemble.boxes import published_box as published_box
from tumorjax.ensemble.build import BuildProgress as BuildProgress
from tumorjax.ensemble.build import build_database as build_database
from tumorjax.ensemble.database import Database as Database
from tumorjax.ensemble.description import described as described
from tumorjax.ensemble.description import disagreement as disagreement
from tumorjax.ensemble.description import settings_of as settings_of
from tumorjax.ensemble.growing import as_density as as_density
from tumorjax.ensemble.recipe import BRATS_SIZES as BRATS_SIZES
from tumorjax.ensemble.recipe import Recipe as Recipe
from tumorjax.ensemble.recipe import Size as Size
from tumorjax.ensemble.recipe import anatomy_hash as anatomy_hash
from tumorjax.ensemble.tumours import tumours_of as tumours_of
