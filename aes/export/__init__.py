"""Adapters, merged weights and data sets for other tools; nothing yet."""
