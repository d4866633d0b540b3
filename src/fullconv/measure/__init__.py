"""What a net achieves: metrics, evaluation, upper bounds, calibration."""
