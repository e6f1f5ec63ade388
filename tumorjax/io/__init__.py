"""Input and output: NIfTI images, their resampling, and folders of results."""

from tumorjax.io.background import above_background as above_background
from tumorjax.io.background import fill_holes as fill_holes
from tumorjax.io.errors import InputError as InputError
from tumorjax.io.errors import fail as fail
from tumorjax.io.geometry import check_worlds as check_worlds
from tumorjax.io.labels import as_labels as as_labels
from tumorjax.io.labels import parse_labels as parse_labels
from tumorjax.io.output import output_folder as output_folder
from tumorjax.io.output import settle as settle
from tumorjax.io.output import sweep as sweep
from tumorjax.io.resampling import resample as resample
from tumorjax.io.resampling import to_voxels as to_voxels
from tumorjax.io.resampling import world_overlap as world_overlap
from tumorjax.io.table import read_columns as read_columns
from tumorjax.io.table import read_rows as read_rows
from tumorjax.io.tensor import TensorVolume as TensorVolume
from tumorjax.io.tensor import as_tensor as as_tensor
from tumorjax.io.tensor import read_tensor as read_tensor
from tumorjax.io.tensor import relative_tensor as relative_tensor
from tumorjax.io.volume import Volume as Volume
from tumorjax.io.volume import as_background as as_background
from tumorjax.io.volume import as_volume as as_volume
from tumorjax.io.volume import read_volume as read_volume
from tumorjax.io.volume import write_volume as write_volume
from tumorjax.storage import sha256 as sha256
