"""How Sphinx builds these pages: ``sphinx-build -W -n docs build/docs``."""

import sys
from pathlib import Path

import billiards_shm

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "billiards_shm"
release = billiards_shm.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "header", "stub"]
myst_heading_anchors = 3
highlight_language = "none"
html_theme = "furo"
html_title = f"billiards_shm {release}"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_show_copyright = False
html_show_sourcelink = False

smartquotes = False
add_module_names = False
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
numpydoc_show_class_members = False
default_role = "autolink"  # a link if it is a name of this package, else as it stands
# Nothing is fetched while building, so names of other packages are no links.
nitpick_ignore_regex = [("py:.*", r"(collections|datetime|fastapi|np|npt|numpy|os|pathlib|types|typing)\..*")]
nitpick_ignore = [("py:class", "Clock")]  # a Literal, whose values `FrameMetadata` describes
