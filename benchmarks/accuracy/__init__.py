"""How good the labels of trained nets are."""
