"""Procedural street scenes with exact masks."""
