"""Figures as part of a page: SVG made safe, given ids of its own, and coloured by the page it stands in.

What is drawn in ink and on white takes the page's colours, so that figures follow light and dark. Style attributes
become presentation attributes, because the page's policy runs no style but its own sheet's. Everything that could load
or run anything is dropped.
"""

import re
from xml.etree import ElementTree

from markupsafe import Markup

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ELEMENTS = [
    "svg",
    "g",
    "defs",
    "path",
    "use",
    "clipPath",
    "rect",
    "circle",
    "ellipse",
    "line",
    "polyline",
    "polygon",
    "text",
    "tspan",
    "title",
    "desc",
    "pattern",
    "image",
    "linearGradient",
    "radialGradient",
    "stop",
    "marker",
]
PROPERTIES = [
    "fill",
    "fill-opacity",
    "fill-rule",
    "stroke",
    "stroke-width",
    "stroke-opacity",
    "stroke-linecap",
    "stroke-linejoin",
    "stroke-dasharray",
    "stroke-dashoffset",
    "stroke-miterlimit",
    "opacity",
    "font-size",
    "font-weight",
    "font-style",
    "text-anchor",
    "dominant-baseline",
    "clip-path",
    "clip-rule",
    "stop-color",
    "stop-opacity",
]
"""Of a style, what becomes an attribute. The font's name does not: figures take the page's."""
PAGE_COLOURS = (
    dict.fromkeys(("#000000", "#000", "black", "#1a1a1a"), "currentColor")
    | dict.fromkeys(("#ffffff", "#fff", "white"), "var(--card)")
    | dict.fromkeys(("#d0d0d0", "#b0b0b0", "#cccccc"), "var(--rule)")
)
"""Ink, paper and faint lines."""
ROOT = {"stroke-linejoin": "round", "stroke-linecap": "butt"}
"""What matplotlib says once in a style sheet of its own."""


def inline(text: str, name: str, title: str) -> Markup | None:
    """Return the SVG element of a figure for a page, ids prefixed by `name`; None where the text is no SVG."""
    try:
        root = ElementTree.fromstring(text.encode())  # noqa: S314 - entities are refused below, nothing is loaded
    except ElementTree.ParseError:
        return None
    if root.tag != f"{{{SVG}}}svg" or "<!ENTITY" in text:
        return None
    _clean(root, f"{name}-")
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.attrib.update(ROOT | {"role": "img", "aria-label": title})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 - cleaned and serialised above


def _clean(element: ElementTree.Element, prefix: str) -> None:
    """Keep what only draws."""
    for child in list(element):
        if not isinstance(child.tag, str) or child.tag.removeprefix(f"{{{SVG}}}") not in ELEMENTS:
            element.remove(child)
        else:
            _clean(child, prefix)
    attributes = dict(element.attrib)
    for declaration in attributes.pop("style", "").split(";"):
        key, _, value = declaration.partition(":")
        if key.strip() in PROPERTIES:
            attributes[key.strip()] = value.strip()
    element.attrib.clear()
    for key, value in attributes.items():
        kept = _attribute(element.tag, key, value, prefix)
        if kept is not None:
            element.set(key, kept)


def _attribute(tag: str, key: str, value: str, prefix: str) -> str | None:
    """An attribute's value as it may stand in the page; None where it may not."""
    if key == "id":
        return prefix + value
    if key in ("href", f"{{{XLINK}}}href"):
        if value.startswith("#"):
            return f"#{prefix}{value[1:]}"
        return value if tag.endswith("image") and value.startswith("data:image/png;base64,") else None
    if key.lower().startswith("on") or key in ("class", "font-family", "font") or key.startswith("{"):
        return None
    if "url(" in value:
        inner = re.fullmatch(r"url\(#([\w.-]+)\)", value)
        return f"url(#{prefix}{inner[1]})" if inner else None
    if key in ("fill", "stroke"):
        return PAGE_COLOURS.get(value.lower(), value)
    return value
