"""Sphinx reads the same Markdown that a reader of the repository sees, and the docstrings."""

import sys
from pathlib import Path

from tensorpool.version import __version__

# The checkout, for the extension in docs/screens.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

project = "tensorpool"
author = "the tensorpool maintainers"
project_copyright = "the tensorpool maintainers"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docs.screens"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["static"]
html_title = f"tensorpool {__version__}"

myst_heading_anchors = 4
# Links out of the documentation lead into the repository: code, deploy files, the changelog.
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_class_signature = "separated"
napoleon_google_docstring = True
napoleon_use_ivar = True
napoleon_custom_sections = ["What"]
