"""Weights of the narrow nets, trained on drawn objects (`methods.classify`)."""
