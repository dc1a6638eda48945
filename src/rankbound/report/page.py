"""What every page shares: the template environment, and figures that stand inside the page.

Design decision: a page is one file that loads nothing, so a figure is inline SVG and its data a `data:`
address: both work from a mail attachment, without a server.
"""

from __future__ import annotations

import re
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from rankbound.report.style import COLOURS, EDGE, INK, MUTED, RULE, to_svg

#: Colours that the page's style sheet has others for in the dark; where it has none, they stay.
THEMED = {INK: "ink", MUTED: "soft", RULE: "rule", EDGE: "edge"} | {
    colour.lower(): str(place) for place, colour in enumerate(COLOURS)
}


def environment() -> Environment:
    """The templates beside this module; every value that goes into a page is escaped."""
    return Environment(
        loader=PackageLoader("rankbound", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def inline_svg(figure: Figure, name: str, label: str) -> Markup:
    """The figure as an `<svg>` element that screen readers announce by `label`."""
    named = Markup('<svg role="img" aria-label="{}"').format(label)
    return Markup(to_svg(figure, name).replace("<svg", named, 1))


def themed(svg: Markup) -> Markup:
    """The same with the house colours as variables of the page; images and colour maps stay as they are."""

    def variable(found: re.Match[str]) -> str:
        name = THEMED.get(found[2].lower())
        return f"{found[1]}: var(--figure-{name}, {found[2]})" if name else found[0]

    return Markup(re.sub(r"(fill|stroke): (#[0-9a-fA-F]{6})", variable, svg))


def csv_address(frame: pd.DataFrame) -> str:
    """The frame as CSV in a `data:` address, to six digits, with a row a line."""
    text = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    return f"data:text/csv;charset=utf-8,{quote(text, safe=',()/=:;@+ ')}".replace(" ", "%20")
