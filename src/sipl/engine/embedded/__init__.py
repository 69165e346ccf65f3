"""The embedded engine: a guest runs in this process, on Unicorn's s390x CPU."""
