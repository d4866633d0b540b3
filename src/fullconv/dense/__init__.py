"""Any classifier becomes dense: traced, placed on grids, its dense layers made convolutions."""
