"""Training methods: one module for each paper or component, their networks and losses in `methods.blocks`."""
