"""Contributed pairs: read as hostile data, checked row by row, and written for a pull request."""
