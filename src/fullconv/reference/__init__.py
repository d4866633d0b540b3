"""The nets of the paper and of its reference implementation, as data, and what goes with them."""
