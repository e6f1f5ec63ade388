"""What follows from a posterior: a dose map for the cells that it expects, and the day of the next scan."""

from tumorjax.decisions.dose import DosePlan as DosePlan
from tumorjax.decisions.dose import plan_dose as plan_dose
from tumorjax.decisions.scan import ScanGains as ScanGains
from tumorjax.decisions.scan import scan_gains as scan_gains
