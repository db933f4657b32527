"""Engine and Rubric: Grades."""

from aes.grading.grader import Grader, read_answer

__all__ = ["Grader", "read_answer"]
