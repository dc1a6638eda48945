"""The study's page: what every section found, put together in one HTML file.

Design decisions:
- The page is complete without its script, which only makes tables sort.
- It carries no date and nothing of the machine that draws it: two pages differ only where studies do.
- A section whose numbers do not allow it (too few widths for a fit) says so in its place; it takes no other
  section with it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

import rankbound
from rankbound.errors import InputError
from rankbound.report import facts
from rankbound.report.page import csv_address, environment, inline_svg, themed
from rankbound.report.study.cautions import cautions
from rankbound.report.study.evidence import Evidence
from rankbound.report.study.section import Drawing, Part, Section, Table
from rankbound.report.study.sections import all_sections
from rankbound.report.study.setting import opening, setting
from rankbound.runs import write_once

if TYPE_CHECKING:
    from rankbound.studies import Study


def study_report(study: Study, output: Path) -> None:
    """Write the study's page; a file that is there already is replaced once the page is whole."""
    if output.is_dir():
        raise InputError(f"output {output} is a folder: name a file in it, such as report.html")
    page = render(study, shlex.join(["rankbound", "study", "report", str(study.path)]))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_once(output, page)


def render(study: Study, command: str) -> str:
    """The whole page; `command` is the line that draws it again."""
    evidence = Evidence(study, command)
    built = [(section, _build(section, evidence)) for section in all_sections()]
    shown = [(section, part) for section, part in built if part != Part()]
    first = next(iter(evidence.runs.loc[evidence.runs["finished"], "run"]), "")
    return (
        environment()
        .get_template("study.html.j2")
        .render(
            title=str(study.spec.get("name") or study.path.name),
            opening=opening(evidence),
            setting=setting(evidence),
            cautions=cautions(evidence),
            verdicts=[
                (_anchor(section), section.title, part.verdicts) for section, part in shown if part.verdicts
            ],
            shared_run=first,
            shared=_shared(evidence, first),
            sections=[_section(section, part) for section, part in shown],
            command=command,
            version=rankbound.__version__,
        )
    )


def _build(section: Section, evidence: Evidence) -> Part:
    try:
        return section.build(evidence)
    except InputError as unfit:
        return Part(notes=[f"Not shown: {unfit}."])


def _section(section: Section, part: Part) -> Mapping[str, Any]:
    return {
        "anchor": _anchor(section),
        "title": section.title,
        "lead": section.lead,
        "part": part,
        "drawings": [_drawing(drawing) for drawing in part.drawings],
        "tables": [_table(table) for table in part.tables],
    }


def _shared(evidence: Evidence, run: str) -> Mapping[str, str]:
    """Every setting of a run, what it ran on and with."""
    if not run:
        return {}
    found = evidence.run(run)
    surroundings = {k: v for k, v in found.environment.items() if k != "command"}
    return facts.choices(found) | facts.flat(surroundings)


def _anchor(section: Section) -> str:
    return "".join(c if c.isalnum() else "-" for c in section.title.lower())


def _drawing(drawing: Drawing) -> Mapping[str, Any]:
    return {
        "drawing": drawing,
        "svg": themed(inline_svg(drawing.figure, drawing.name, drawing.alt)),
        "csv": Markup(csv_address(drawing.data)),
        "rows": len(drawing.data),
    }


def _table(table: Table) -> Mapping[str, Any]:
    numeric = [pd.api.types.is_numeric_dtype(table.frame[column.name]) for column in table.columns]
    return {
        "table": table,
        "numeric": numeric,
        "rows": [
            [
                (column.text(value), _key(value, is_number), is_number)
                for column, value, is_number in zip(table.columns, values, numeric, strict=True)
            ]
            for values in zip(*(table.frame[column.name] for column in table.columns), strict=True)
        ],
        "csv": Markup(csv_address(table.frame)),
    }


def _key(value: Any, is_number: bool) -> str:
    """What a cell sorts by where that is not its text; nothing sorts last."""
    if not is_number or value is None or not math.isfinite(value):
        return ""
    return f"{value:.9g}"
