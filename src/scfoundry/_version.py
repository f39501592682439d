"""The version; the metadata of the distribution are made from it."""

__version__ = "0.1.0"
