"""Photographs and drawings, made into what the images of a dataset look like."""
