"""Why a disk does not boot securely, and what to do: one rule per trouble (docs/doctor.md)."""
