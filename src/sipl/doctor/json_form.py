"""A diagnosis as JSON, `sipl.diagnosis/1`; the JSON Schema of it lies beside this module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sipl.doctor.model import SCHEMA

if TYPE_CHECKING:
    from sipl.doctor.model import Diagnosis, Problem, Step

SCHEMA_FILE = "diagnosis.schema.json"


def to_dict(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as JSON knows it: dicts, lists, strings, numbers, booleans, None."""
    return {
        "schema": SCHEMA,
        "path": diagnosis.path,
        "mode": diagnosis.mode,
        "outcome": diagnosis.outcome,
        "reason": diagnosis.reason,
        "would_boot": diagnosis.would_boot,
        "closed": diagnosis.closed,
        "verified": [verified._asdict() for verified in diagnosis.verified],
        "unsigned": list(diagnosis.unsigned),
        "problems": [_problem(problem) for problem in diagnosis.problems],
        "steps": [_step(step) for step in diagnosis.steps],
    }


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "name": problem.name,
        "level": problem.level,
        "parts": list(problem.parts),
        "components": list(problem.components),
        "reasons": list(problem.reasons),
        "what": problem.what,
        "details": list(problem.details),
        "steps": [_step(step) for step in problem.steps],
    }


def _step(step: Step) -> dict[str, str]:
    return {"what": step.what, "command": step.command, "instead": step.instead}


def schema() -> dict[str, Any]:
    """The JSON Schema of a diagnosis."""
    import json
    from importlib.resources import files

    loaded: dict[str, Any] = json.loads(files("sipl.doctor").joinpath(SCHEMA_FILE).read_text("utf-8"))
    return loaded
