"""Engine and Rubric: Grades, with deductions and calibration."""

from aes.grading.calibration import Calibration
from aes.grading.grader import Grader, read_answer
from aes.grading.spec import CalibrationSpec

__all__ = ["Calibration", "CalibrationSpec", "Grader", "read_answer"]
