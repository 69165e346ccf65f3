"""Who runs the guest after the hand-over."""
