"""Scores of two graders -> how far they agree. Import the module that is needed."""
