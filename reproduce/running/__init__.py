"""Stages that run: the store, processes, devices, resuming."""
