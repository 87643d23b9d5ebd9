"""Both papers item by item: what they print, and the same measured here."""
