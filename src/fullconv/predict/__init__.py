"""From photographs to label images."""
