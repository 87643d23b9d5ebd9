"""Images in: sources, TFDS builders that need no TensorFlow, and the Grain pipeline."""
