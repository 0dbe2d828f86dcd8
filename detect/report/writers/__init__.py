"""A document as HTML and as Markdown."""
