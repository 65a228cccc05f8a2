"""Settings of Sphinx, which makes one site of the guides, the README and the docstrings: ``make docs``."""

from __future__ import annotations

from docutils.nodes import Element, TextElement
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

import dcp_deploy

project = "dcp-deploy"
release = dcp_deploy.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["docker"]

html_theme = "furo"
html_title = f"dcp-deploy {release}"
html_copy_source = False

myst_heading_anchors = 4  # links to headings, by the names that GitHub gives them

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True

ELSEWHERE = {
    "](CONTRIBUTING.md": "](contributing.md",
    "](../CONTRIBUTING.md": "](contributing.md",
    "](CHANGELOG.md": "](changelog.md",
    "](LICENSE": "](../LICENSE",
}
"""Links that lead out of docs/, and their targets on the site. Those of the README into docs/ need none."""

PUBLIC = {name: getattr(dcp_deploy, name) for name in dcp_deploy.__all__}
"""All imported now: autodoc changes annotations of pydantic's BaseModel, after which no more models can be defined."""


def keep_links_on_the_site(app: Sphinx, *read: object) -> None:
    """Change the text of a page, or of a file that it includes, before it is parsed: a list of one string."""
    text = read[-1]
    assert isinstance(text, list)
    for link, target in ELSEWHERE.items():
        text[0] = text[0].replace(link, target)


def skip_what_the_library_page_has(
    app: Sphinx, what: str, name: str, value: object, skip: bool, options: object
) -> bool:
    """Whether a member of a page by modules is left out: describe the public names of ``dcp_deploy`` once."""
    return skip or (what == "module" and name in PUBLIC and value is PUBLIC[name])


def find_by_its_ending(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: TextElement) -> Element | None:
    """Return the link for a short name in a docstring, such as ``.gate.verify``, if one name of the site ends in it."""
    ending = "." + node["reftarget"].lstrip("~.")
    names = [name for name in env.domains.python_domain.objects if name.endswith(ending)]
    if node["refdomain"] != "py" or len(names) != 1:
        return None
    entry = env.domains.python_domain.objects[names[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, text)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", skip_what_the_library_page_has)
    app.connect("missing-reference", find_by_its_ending)
    app.connect("source-read", keep_links_on_the_site)
    app.connect("include-read", keep_links_on_the_site)
