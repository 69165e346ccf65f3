"""The guest on a stock QEMU: sipl verifies and places, QEMU runs (docs/qemu-engine.md)."""
