"""Results as pages: measured numbers beside the printed ones, as one HTML file and as Markdown."""
