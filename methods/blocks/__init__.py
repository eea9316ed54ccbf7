"""Building blocks of methods: backbones, heads, normalisation, losses and schedules. Every module imports torch."""
