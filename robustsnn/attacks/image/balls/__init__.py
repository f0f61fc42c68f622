"""Norm balls cut by the pixel bounds, one file a norm."""
