"""Registration of two brain images, and warping of images by the resulting transforms."""

from tumorjax.registration.align import RegistrationWarning as RegistrationWarning
from tumorjax.registration.align import register as register
from tumorjax.registration.align import register_in_steps as register_in_steps
from tumorjax.registration.engines import DEFAULT_ENGINE as DEFAULT_ENGINE
from tumorjax.registration.engines import ENGINES as ENGINES
from tumorjax.registration.engines import check_engine as check_engine
from tumorjax.registration.files import load_transform as load_transform
from tumorjax.registration.files import save_transform as save_transform
from tumorjax.registration.transform import Field as Field
from tumorjax.registration.transform import Transform as Transform
from tumorjax.registration.transform import compose as compose
from tumorjax.registration.transform import invert as invert
from tumorjax.registration.transform import jacobian_determinant as jacobian_determinant
from tumorjax.registration.warping import warp as warp
from tumorjax.registration.warping import warp_all as warp_all
