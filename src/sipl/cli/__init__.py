"""The command line: one module per command, no rules of its own."""
