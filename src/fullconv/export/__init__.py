"""A net as a file that runs without fullconv, and how far an engine's labels are to be trusted."""
