"""Signing and writing boot records: what the demo needs, and what tests use to make disks of their own."""
