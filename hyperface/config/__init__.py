"""What a run is, as plain data: the experiment and its loss."""
