"""The papers' printed tables (TOML), and the recipe of each of their rows."""
