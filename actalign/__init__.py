"""What two or more of the six scripts share; each module is one noun."""

__version__ = "0.1.0"
