"""The runs of reports.py, for every test of this folder."""

from reports import easy, hostile, other, own_data, small

__all__ = ["easy", "hostile", "other", "own_data", "small"]
