"""From the command line of a QEMU to what sipl verifies and what it starts, without running anything."""
