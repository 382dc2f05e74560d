"""Studies: many ways of merging the same experts, and numbers of aligned concepts, on the same prompts over seeds."""
