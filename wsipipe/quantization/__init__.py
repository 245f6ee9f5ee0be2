"""Networks in int8: calibrated on tissue, compared with float32, and written as models."""
