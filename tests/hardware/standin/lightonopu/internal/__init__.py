"""The device itself."""
