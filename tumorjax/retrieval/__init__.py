"""Retrieval: calibration as a query for the simulated tumours that are most similar to a patient's."""

from tumorjax.retrieval.direct import search as search
from tumorjax.retrieval.likelihood import LEVELS as LEVELS
from tumorjax.retrieval.likelihood import Labels as Labels
from tumorjax.retrieval.likelihood import Likelihoods as Likelihoods
from tumorjax.retrieval.likelihood import OutlineLikelihood as OutlineLikelihood
from tumorjax.retrieval.masks import PackedMasks as PackedMasks
from tumorjax.retrieval.masks import pack as pack
from tumorjax.retrieval.query import VARIANTS as VARIANTS
from tumorjax.retrieval.query import Index as Index
from tumorjax.retrieval.query import Matches as Matches
from tumorjax.retrieval.query import query as query
