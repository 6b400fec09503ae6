"""Reports, figures, and the mark of synthetic content."""
