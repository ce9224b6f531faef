"""The Modelfile that goes beside a GGUF file: how Ollama is to prompt the model, and when it stops.

Ollama reads Go templates, not the Jinja template that lies in the file. A Go template is therefore made from what the
Jinja one writes around each role, and kept only if it writes whole conversations just as the Jinja one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distiller.chat.transformers_local import render_messages
from distiller.errors import ModelError
from distiller.schema import Message

Pair = tuple[str, str]
#: Words that no template writes, and that no template changes by trimming them.
_SYSTEM, _QUESTION, _REPLY, _SECOND = "QXSYSTEMQX", "QXFIRSTQX", "QXREPLYQX", "QXSECONDQX"


@dataclass(frozen=True)
class Frame:
    """What a chat template writes: at the beginning, before and after each message by role, and before the reply."""

    begin: str
    system: Pair
    user: Pair
    assistant: Pair
    reply: str
    #: The system prompt that the template writes by itself where there is none.
    default_system: str = ""

    @property
    def quotable(self) -> bool:
        """Whether none of it opens an action of a Go template, or ends the Modelfile's quotes."""
        literal = "\0".join([self.begin, *self.system, *self.user, *self.assistant, self.reply])
        return "{{" not in literal and '"""' not in literal

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt of a conversation, as the Go template writes it."""
        if self.default_system and (not messages or messages[0].role != "system"):
            messages = [Message(role="system", content=self.default_system), *messages]
        around = {"system": self.system, "assistant": self.assistant}
        pieces = [m.content.join(around.get(m.role, self.user)) for m in messages]
        return self.begin + "".join(pieces) + self.reply

    def go_template(self) -> str:
        """The same for Ollama, which puts the Modelfile's SYSTEM in front of `.Messages` where there is no system message."""

        def around(pair: Pair) -> str:
            return "{{ .Content }}".join(pair)

        return (
            f'{self.begin}{{{{ range .Messages }}}}{{{{ if eq .Role "system" }}}}{around(self.system)}'
            f'{{{{ else if eq .Role "assistant" }}}}{around(self.assistant)}'
            f"{{{{ else }}}}{around(self.user)}{{{{ end }}}}{{{{ end }}}}{self.reply}"
        )


def frame_of(tokenizer: Any) -> Frame | None:
    """The frame of a tokenizer's chat template; None where the template does more than to frame each message."""
    system, user, assistant, second = (
        Message(role="system", content=_SYSTEM),
        Message(role="user", content=_QUESTION),
        Message(role="assistant", content=_REPLY),
        Message(role="user", content=_SECOND),
    )

    def render(*messages: Message, reply: bool = False) -> str:
        return render_messages(tokenizer, messages, add_generation_prompt=reply)

    try:
        whole = render(system, user, assistant, second, reply=True)
        before_system, rest = whole.split(_SYSTEM)
        system_user, rest = rest.split(_QUESTION)
        user_assistant, rest = rest.split(_REPLY)
        assistant_user, user_reply = rest.split(_SECOND)
        ends = tokenizer.eos_token or ""

        def after(text: str, following: str) -> str:  # some templates (Phi-3's) end what is no prompt
            return text if following.startswith(text) else _without(text, end=ends)

        after_assistant = after(render(system, user, assistant).split(_REPLY)[1], assistant_user)
        after_user = after(render(system, user).split(_QUESTION)[1], user_assistant)
        before_user = _without(assistant_user, start=after_assistant)
        after_system = _without(system_user, end=before_user)
        alone = _without(render(user).split(_QUESTION)[0], end=before_user)
        # A mark that opens every message (ChatML's <|im_start|> is named as one of the beginning) belongs to them.
        mark = tokenizer.bos_token or ""
        begin = mark if before_system.startswith(mark) and not before_user.startswith(mark) else ""
        before_system = _without(before_system, start=begin)
        default = _without(_without(alone, start=begin + before_system), end=after_system) if alone != begin else ""
        frame = Frame(
            begin,
            (before_system, after_system),
            (before_user, after_user),
            (_without(user_assistant, start=after_user), after_assistant),
            _without(user_reply, start=after_user),
            default,
        )
        conversations = ([system, user], [user], [user, assistant, second], [system, user, assistant, second])
        return frame if all(frame.render(c) == render(*c, reply=True) for c in conversations) else None
    except (ValueError, ModelError):  # a word written twice, or not at all; a role that is refused
        return None


def _without(text: str, *, start: str = "", end: str = "") -> str:
    """Raises ValueError where `text` does not start and end so."""
    if not text.startswith(start) or not text.endswith(end):
        raise ValueError(text)
    return text[len(start) : len(text) - len(end)]


def modelfile(file_name: str, tokenizer: Any, stops: Sequence[str], system_prompt: str) -> str:
    """The Modelfile for `file_name`, which lies beside it. `stops`: texts of the tokens that end a reply."""
    frame = frame_of(tokenizer)
    lines = [f"FROM ./{file_name}"]
    if frame is not None and frame.quotable:
        lines.append(f'TEMPLATE """{frame.go_template()}"""')
        system_prompt = system_prompt or frame.default_system
    else:
        lines.append("# The chat template has no counterpart here; Ollama chooses one by that in the file.")
    if system_prompt and '"""' not in system_prompt:
        lines.append(f'SYSTEM """{system_prompt}"""')
    lines.append("PARAMETER temperature 0")
    lines += [f'PARAMETER stop "{stop}"' for stop in stops if '"' not in stop]
    return "\n".join(lines) + "\n"
