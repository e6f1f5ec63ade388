"""The report: one self-contained HTML page and one summary image.

Host side only: numpy in, files out. Importing this package loads neither matplotlib nor jinja2;
`write_report` does.
"""

from tumorjax.report.data import ReportData as ReportData
from tumorjax.report.data import Stage as Stage
from tumorjax.report.page import glance as glance
from tumorjax.report.page import report_page as report_page
from tumorjax.report.page import write_report as write_report
