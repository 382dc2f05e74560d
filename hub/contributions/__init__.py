"""What contribute, review and release share: hostile data read bounded, rows checked, one file written."""
