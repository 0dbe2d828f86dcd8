"""The report that compares detection runs: a page to open from disk, and its numbers as files."""

from detect.report.document import write_report

__all__ = ["write_report"]
