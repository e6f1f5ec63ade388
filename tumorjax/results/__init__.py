"""Personalization, and the files that keep it: images, tables, records of how they came about."""

from tumorjax.progress import Progress as Progress
from tumorjax.progress import silent as silent
from tumorjax.results.personalization import Personalization as Personalization
from tumorjax.results.stages import Stopwatch as Stopwatch
