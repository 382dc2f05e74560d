"""Suites: several rows of results at once, each under its protocol, with published figures beside them. The modules are
imported by name."""
