"""Secure IPL for Linux on IBM Z (s390x): verify, inspect and boot disk images from any host."""
