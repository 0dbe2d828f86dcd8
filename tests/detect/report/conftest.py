"""What tests of the report share."""

import pytest
from reports import Page

from detect.report import write_report


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Writes the page and the Markdown, without the charts, which take the most time."""
    monkeypatch.setattr("detect.report.document.write_figures", lambda *_: [])

    def write(folders, **arguments):
        files = write_report(folders, tmp_path / "out" / "report.html", **arguments)
        return Page(files[0].read_text("utf-8")), files[1].read_text("utf-8")

    return write
