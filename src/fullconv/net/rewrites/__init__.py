"""The same net with less work: folded, elided, or with quicker layers."""
