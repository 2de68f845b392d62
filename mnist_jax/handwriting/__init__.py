"""Photographs and drawings, prepared to look like a dataset's images."""
