"""Taxonomy -> prompt pairs -> image pairs -> judged -> deduplicated -> split -> a versioned preference dataset."""
