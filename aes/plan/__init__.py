"""What a run will cost and whether it fits, before the first step."""

from aes.plan.lengths import Lengths, MeasuredData
from aes.plan.parameters import ParameterCount, count_parameters
from aes.plan.plan import Plan, make_plan, plan_to_dict
from aes.plan.planned_run import PlannedRun
from aes.plan.steps import Schedule
from aes.plan.table import render_plan

__all__ = [
    "Lengths",
    "MeasuredData",
    "ParameterCount",
    "Plan",
    "PlannedRun",
    "Schedule",
    "count_parameters",
    "make_plan",
    "plan_to_dict",
    "render_plan",
]
