"""Configuration of Sphinx for the pages in this folder."""

project = "ips-dask-cluster"
author = "the ips-dask-cluster developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 2  # else a link to a heading may find an attribute of that name
exclude_patterns = ["_build", "examples/*/*/**"]
autodoc_member_order = "bysource"
napoleon_google_docstring = False
suppress_warnings = ["myst.xref_missing"]  # the README links to files of the repository
html_theme = "alabaster"
