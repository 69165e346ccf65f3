"""An outcome for people and programs: the report as an object, as JSON, as text."""
