"""What a model is told: the system prompt, and policy text beside the customer's question.

Policy text stands in the message of the turn that it was retrieved for, and stays there in the history:
a conversation is one sequence of tokens, whose beginning does not change as it grows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from distiller.job import DistillationJob
from distiller.retrieval import PolicyIndex
from distiller.schema import Conversation, Message, Turn, history, read_conversations
from distiller.tasks import TASKS


@dataclass(frozen=True)
class Prompting:
    base: str
    instructions: str = ""
    policies: PolicyIndex | None = None
    lines: int = 6
    #: Beside the question of an answered conversation stand the lines that its answer was given from.
    complete: bool = False
    task: str = "conversation"

    def system(self, own: str | None) -> str:
        """The system prompt; `own` is the conversation's own one."""
        return TASKS[self.task].system_prompt("\n\n".join(filter(None, (self.base, own))), self.instructions)

    def policy_texts(self, histories: Sequence[Sequence[Message]], ids: Sequence[str]) -> list[str]:
        """The policy text for the last question of each bare history, `ids` the conversations they are of; empty
        where the model gets none."""
        if not self.policies:
            return [""] * len(histories)
        return self.policies.search(histories, self.lines, ids, complete=self.complete)

    def messages(
        self, turns: Sequence[Turn], replies: Sequence[str], upto: int, policy: Sequence[str], own: str | None
    ) -> list[Message]:
        """What the model sees before it answers turn `upto`; `policy[t]` goes with the question of turn t."""
        seen = [self._with_policy(turn, policy[turn.index]) for turn in turns[: upto + 1]]
        return history(seen, replies, upto, self.system(own))

    def reference_policies(self, conversations: Sequence[Conversation]) -> list[list[str]]:
        """The policy text of every conversation's turns, the references standing for the earlier replies."""
        histories, ids = [], []
        for conversation in conversations:
            turns = conversation.turns()
            references = [turn.reference or "" for turn in turns]
            histories += [history(turns, references, turn.index, None) for turn in turns]
            ids += [conversation.id] * len(turns)
        texts = iter(self.policy_texts(histories, ids))
        return [list(itertools.islice(texts, len(conversation.turns()))) for conversation in conversations]

    def as_seen(self, conversation: Conversation, policy: Sequence[str] | None = None) -> Conversation:
        """The conversation as one sequence for training: system prompt and policy text put in."""
        turns = conversation.turns()
        policy = policy or [""] * len(turns)
        messages = [Message(role="system", content=self.system(conversation.system))]
        for turn in turns:
            messages.extend(self._with_policy(turn, policy[turn.index]).context)
            if turn.reference is not None:
                messages.append(Message(role="assistant", content=turn.reference))
        return Conversation(id=conversation.id, messages=messages, metadata=conversation.metadata)

    def _with_policy(self, turn: Turn, policy: str) -> Turn:
        if not policy:
            return turn
        last = max(i for i, message in enumerate(turn.context) if message.role == "user")
        question = TASKS[self.task].question(turn.context[last].content, policy)
        context = [*turn.context[:last], Message(role="user", content=question), *turn.context[last + 1 :]]
        return replace(turn, context=tuple(context))


def teacher_prompting(job: DistillationJob) -> Prompting:
    policies = None
    if job.retrieval.policies is not None:
        from distiller.embedding import load_retrieval_encoder

        answered = read_conversations(job.retrieval.questions) if job.retrieval.questions else []
        policies = PolicyIndex(job.retrieval.policies, load_retrieval_encoder(), answered)
    return Prompting(job.system_prompt, job.teacher_instructions, policies, job.retrieval.lines, task=job.task_type)


def student_prompting(job: DistillationJob) -> Prompting:
    """What the student gets in service, and everyone who is compared with it: policy text or none."""
    if not job.retrieval.student:
        return Prompting(job.system_prompt, task=job.task_type)
    return replace(teacher_prompting(job), instructions="")


def in_training(job: DistillationJob, prompting: Prompting) -> Prompting:
    """`prompting` as it is for the training data: a lookup that failed teaches the wrong answer."""
    return replace(prompting, complete=job.retrieval.complete)
