"""Tables, figures and image sheets; draws on NumPy, matplotlib and pillow only."""
