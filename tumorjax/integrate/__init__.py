"""How growth advances in time: the verb `simulate`, its steppers and its adjoints."""

from tumorjax.integrate.adjoint import AbstractAdjoint as AbstractAdjoint
from tumorjax.integrate.adjoint import ForwardMode as ForwardMode
from tumorjax.integrate.batch import simulate_many as simulate_many
from tumorjax.integrate.checkpointed import CheckpointedAdjoint as CheckpointedAdjoint
from tumorjax.integrate.devices import DevicePool as DevicePool
from tumorjax.integrate.many import at_one as at_one
from tumorjax.integrate.many import each as each
from tumorjax.integrate.many import in_parts as in_parts
from tumorjax.integrate.mass_effect import FlowSplitting as FlowSplitting
from tumorjax.integrate.simulate import simulate as simulate
from tumorjax.integrate.solution import Result as Result
from tumorjax.integrate.solution import Solution as Solution
from tumorjax.integrate.solution import VolumeSolution as VolumeSolution
from tumorjax.integrate.split_euler import SplitEuler as SplitEuler
from tumorjax.integrate.stepper import AbstractStepper as AbstractStepper
from tumorjax.integrate.stepper import Interval as Interval
from tumorjax.integrate.stepper import Schedule as Schedule
from tumorjax.integrate.strang_rkl2 import StrangRKL2 as StrangRKL2
from tumorjax.integrate.timeline import Calendar as Calendar
