"""Protocols: how a figure is measured, as named YAML files with a hash. The modules are imported by name."""
