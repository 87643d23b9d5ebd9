"""Numbers from scores: rates, thresholds, identification, intervals."""
