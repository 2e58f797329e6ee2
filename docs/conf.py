"""How `make docs` builds these pages: MyST reads the Markdown, autodoc writes the reference from docstrings."""

from dagster_peaka import __version__

project = "dagster-peaka"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
myst_heading_anchors = 3  # links to headings, as GitHub makes them
autodoc_class_signature = "separated"  # pydantic's models are their fields, each with its own words
autodoc_default_options = {
    "members": True,
    "imported-members": True,
    "undoc-members": True,
    "exclude-members": "model_config",
}
autodoc_preserve_defaults = True
nitpicky = True
nitpick_ignore_regex = [("py:(class|exc|obj)", ".*")]  # annotations name classes of other libraries
