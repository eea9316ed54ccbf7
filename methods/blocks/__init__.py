"""What methods are made of: backbones, heads, normalisation, losses and schedules. Every module here imports torch."""
