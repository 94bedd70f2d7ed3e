"""Learning dynamics in high dimension: equations of motion of overlaps, and finite networks that follow them."""
