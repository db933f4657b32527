"""Essay and Rubric to messages; the form of the answer."""

from aes.prompt.answer import AnswerSchema, ParsedAnswer
from aes.prompt.spec import PromptSpec

__all__ = ["AnswerSchema", "ParsedAnswer", "PromptSpec"]
