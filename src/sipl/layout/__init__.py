"""What lies on disk and in guest memory: records, offsets and constants, big endian, without behaviour."""
