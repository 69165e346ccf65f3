"""Fuzzing of sipl: see docs/fuzzing.md."""
