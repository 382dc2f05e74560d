"""Metrics on pictures, features and verdicts, each with its interval.

What counts pictures takes them in portions of any size, keeps a state that does not grow with their number, writes it
to a file, reads it again and adds another one's. The modules are imported by name; this file imports none of them."""
