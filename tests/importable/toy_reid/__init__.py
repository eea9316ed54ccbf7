"""A package outside the project: a method, a guest, images that a stage makes, and a paper; see CONTRIBUTING."""
