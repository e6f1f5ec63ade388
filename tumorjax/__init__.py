"""tumorjax: differentiable brain-tumour growth, calibrated to a patient's images. Not for clinical use.

The public names stand in `__init__.pyi`. Each room is loaded when one of its names is first used, so that who only
simulates does not wait for libraries of images or of optimisation.
"""

import logging
from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = version("tumorjax")

# Who uses the package decides what becomes of its log.
logging.getLogger(__name__).addHandler(logging.NullHandler())

del lazy_loader, logging, version
