"""From a dataset folder to trained nets: recipe, plan, stages, and one straight loop."""
