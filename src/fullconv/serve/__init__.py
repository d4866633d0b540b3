"""An HTTP service on a model: the page of the web export, and an API."""
