"""samtune: customize the Segment Anything Model on your own masks."""

__version__ = "0.1.0"
