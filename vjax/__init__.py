"""vjax: video transformers in JAX, from mp4 files to trained, evaluated, usable models."""

__version__ = '0.1.0'
