"""virtio devices behind virtio-ccw: disks and entropy (docs/formats/channel-io.md)."""
