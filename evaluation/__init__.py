"""Evaluation: a model's pictures of the test prompts, judged, measured and reported, before and after alignment.

The modules are imported by name (`from evaluation.evaluate import evaluate`); this file imports none of them, so that
reading finished results needs neither torch nor diffusers."""
