"""What users are connected to while one QEMU process follows another (docs/qemu-engine.md)."""
