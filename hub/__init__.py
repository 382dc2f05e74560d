"""The Hub: push, pull, and the quickstart that chains all stages. Only `HF_ENDPOINT` tells one Hub from another."""
