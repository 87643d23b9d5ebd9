"""The field's protocols: their files, their scoring and their names."""
