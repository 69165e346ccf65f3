"""The channel subsystem: subchannels, I/O instructions and interruptions (docs/formats/channel-io.md)."""
