"""The report as JSON, `sipl.report/1`; the JSON Schema of it lies beside this module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sipl.report.model import SCHEMA

if TYPE_CHECKING:
    from sipl.report.model import Report

SCHEMA_FILE = "report.schema.json"
# A named tuple cannot have a field of this name.
_JSON_NAMES = {"report_index": "index"}


def to_dict(report: Report) -> dict[str, Any]:
    """The report as JSON knows it: dicts, lists, strings, numbers, booleans, None."""
    return {"schema": SCHEMA} | {name: plain(value) for name, value in report._asdict().items()}


def plain(value: object) -> object:
    """A value as JSON knows it: named tuples become objects, other tuples lists."""
    if isinstance(value, tuple):
        named = getattr(value, "_asdict", None)
        if named is not None:
            return {_JSON_NAMES.get(name, name): plain(member) for name, member in named().items()}
        return [plain(member) for member in value]
    return value


def to_json(report: Report) -> str:
    """The report as one line of JSON."""
    import json

    return json.dumps(to_dict(report))


def schema() -> dict[str, Any]:
    """The JSON Schema of the report."""
    import json
    from importlib.resources import files

    loaded: dict[str, Any] = json.loads(files("sipl.report").joinpath(SCHEMA_FILE).read_text("utf-8"))
    return loaded
