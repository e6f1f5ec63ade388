"""The inverse methods: searches, samplers, a network for one patient, several atlases, answers from an atlas."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

del lazy_loader
