"""A Hub-compatible server for one machine: tests, the quickstart, and groups whose data may not leave."""
