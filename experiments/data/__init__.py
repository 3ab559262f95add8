"""Prepare raw files as data sets that every script finds by name."""
