"""Prompt sets: what they are, where they come from, and how their prompts are read. One YAML file a set.

The modules are imported by name; `definition.py` reads the YAML files, `loading.py` the prompts."""
