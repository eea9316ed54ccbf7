"""Results as pages: measured numbers beside the printed ones, as HTML and as Markdown."""
