"""The same net with less work: folded, elided, merged, or with quicker layers."""
