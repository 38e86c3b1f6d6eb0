"""report.html: the whole comparison as one page that opens anywhere."""

from esft_bench.reports.html.page import REPORT, render, write_html

__all__ = ["REPORT", "render", "write_html"]
