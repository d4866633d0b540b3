"""The net: a trunk, its heads, and how both are made, stored and described."""
