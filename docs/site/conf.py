"""Sphinx's settings for the pages that build.py has put together."""

import aioloop

project = "aioloop"
author = "The aioloop authors"
version = release = aioloop.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]

# Anchors of headings are those that hosting services give them.
myst_heading_anchors = 4

autodoc_member_order = "groupwise"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 78
smartquotes = False
# They are described without being installed.
autodoc_mock_imports = ["prometheus_client", "opentelemetry"]

html_theme = "furo"
html_title = f"aioloop {version}"
html_static_path = ["static"]
html_css_files = ["aioloop.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
