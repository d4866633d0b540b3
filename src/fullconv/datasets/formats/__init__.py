"""Annotations of other tools, a file a format: each recognises its folder and reads its images."""
