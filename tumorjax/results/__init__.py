"""Personalization, and the files that keep it: images, tables, records of how they came about."""

from tumorjax.results.personalization import Personalization as Personalization
from tumorjax.results.personalization import Progress as Progress
from tumorjax.results.personalization import silent as silent
from tumorjax.results.stages import Stopwatch as Stopwatch
