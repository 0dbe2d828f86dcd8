"""Texts from foreign files, as they may be shown."""

from common.text.escaping import (
    in_csv,
    in_file_name,
    in_html,
    in_line,
    in_lines,
    in_markdown,
)

__all__ = ["in_csv", "in_file_name", "in_html", "in_line", "in_lines", "in_markdown"]
