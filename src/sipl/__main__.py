"""`python -m sipl`."""

from sipl.cli.main import entry

entry()
