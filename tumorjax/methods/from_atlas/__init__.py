"""Answers from an atlas, carried to the patient: a query over simulated tumours, and a network that has learnt them."""

from tumorjax.methods.from_atlas.index import index_of as index_of
from tumorjax.methods.from_atlas.inferred import Inferred as Inferred
from tumorjax.methods.from_atlas.learn_morph_infer import DoubtfulEstimate as DoubtfulEstimate
from tumorjax.methods.from_atlas.learn_morph_infer import LearnMorphInfer as LearnMorphInfer
from tumorjax.methods.from_atlas.matched import Matched as Matched
from tumorjax.methods.from_atlas.retrieval import Retrieval as Retrieval
