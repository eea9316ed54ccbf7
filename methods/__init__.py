"""Training methods: one module per paper or component; networks and losses are in `methods.blocks`."""
