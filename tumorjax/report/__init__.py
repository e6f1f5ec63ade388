"""Figures and the page a person reads: one self-contained HTML file and one summary image.

Host side only: numpy in, files out. Importing this package loads neither matplotlib nor jinja2;
`write_report` does.
"""

from tumorjax.report.data import AtlasFit as AtlasFit
from tumorjax.report.data import Parameter as Parameter
from tumorjax.report.data import ReportData as ReportData
from tumorjax.report.data import Stage as Stage
from tumorjax.report.draws import Draws as Draws
from tumorjax.report.page import write_report as write_report
