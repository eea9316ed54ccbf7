"""Images of people: read, fingerprint, decode, draw, transform and sample them."""
