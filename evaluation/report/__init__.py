"""Reports: one self-contained HTML file per evaluation, suite or study, and a server for a folder of runs."""

from evaluation.report.build import write_report
from evaluation.report.evaluation_part import verdict

__all__ = ["verdict", "write_report"]
