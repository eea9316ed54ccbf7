"""What the paper prints, and what produces it."""
