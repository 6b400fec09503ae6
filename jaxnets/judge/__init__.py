"""Trained networks at work, and the scores of what they make."""
