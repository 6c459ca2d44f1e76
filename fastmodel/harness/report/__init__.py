"""A bench run's record for people: Markdown, one offline HTML file, and the schema of its JSON."""

from __future__ import annotations

from . import comparison
from .html import render_html
from .json_schema import schema, schema_text
from .markdown import render_markdown

__all__ = ["comparison", "render_html", "render_markdown", "schema", "schema_text"]
