"""The boot side of secure IPL: what the firmware does, from the IPL parameter block to the hand-over."""
