"""Images of people: reading domains, fingerprinting them, decoding, drawing, transforming and sampling."""
