"""Task types. A new one is a file and an entry here."""

from distiller.tasks.base import Score, Scorer, Task, ToScore
from distiller.tasks.conversation import ConversationTask

TASKS: dict[str, Task] = {task.name: task for task in (ConversationTask(),)}

__all__ = ["TASKS", "Score", "Scorer", "Task", "ToScore"]
