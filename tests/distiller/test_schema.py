"""Conversations, their JSONL form, and the lines that people really have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distiller.errors import DataError
from distiller.forms import parse_column_map
from distiller.schema import (
    MAX_LINE_BYTES,
    BadLine,
    Conversation,
    drop_torn_line,
    history,
    read_conversations,
    read_jsonl,
    to_line,
    write_jsonl,
)

SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
GOOD_LINE = '{"messages": [{"role": "user", "content": "Hi"}]}'

_text = st.text(max_size=30)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)


def _extras(*known: str) -> st.SearchStrategy[dict[str, Any]]:
    # pydantic gives its own methods names that an extra key may not take as an attribute, never as a key
    return st.dictionaries(st.text(min_size=1, max_size=12).filter(lambda key: key not in known), _json, max_size=3)


_message = st.builds(
    lambda role, content, extra: {"role": role, "content": content, **extra},
    st.sampled_from(["user", "assistant", "tool", "system"]),
    _text,
    _extras("role", "content"),
)
_row = st.builds(
    lambda identity, messages, metadata, extra: {
        "id": identity,
        "messages": [{"role": "user", "content": "Hi"}, *messages],
        "metadata": metadata,
        **extra,
    },
    st.text(min_size=1, max_size=10),
    st.lists(_message, max_size=4),
    st.dictionaries(_text, _json, max_size=3),
    _extras("id", "messages", "metadata", "conversations", "prompt", "completion"),
)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def conversation(*messages: tuple[str, str], **metadata: Any) -> Conversation:
    return Conversation.model_validate(
        {"id": "c", "messages": [{"role": role, "content": text} for role, text in messages], "metadata": metadata}
    )


def one(tmp_path: Path, row: dict[str, Any], **options: Any) -> Conversation:
    (found,) = read_conversations(write(tmp_path / "data.jsonl", json.dumps(row)), **options)
    return found


def said(item: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in item.messages]


# Round trip


@SHARED_FOLDER
@given(row=_row)
def test_a_round_trip_keeps_every_key(row: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    out = tmp_path / "out.jsonl"
    write_jsonl(out, read_conversations(path))
    (line,) = out.read_bytes().splitlines()[:1] if out.read_bytes().count(b"\n") == 1 else [b"null"]
    assert json.loads(line) == row


def test_write_jsonl_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "data.jsonl"
    write_jsonl(path, [{"a": 1}, {"a": 2}])
    write_jsonl(path, [{"a": "é"}])
    assert path.read_text("utf-8") == '{"a": "é"}\n'
    assert [p.name for p in path.parent.iterdir()] == ["data.jsonl"]


# The forms of a line


def test_openai_line(tmp_path: Path) -> None:
    found = one(
        tmp_path,
        {
            "id": 7,
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "t1"}]},
                {"role": "function", "content": "42"},
            ],
        },
    )
    assert found.id == "7"
    assert said(found) == [("system", "Be brief."), ("user", "Hi"), ("assistant", ""), ("tool", "42")]
    assert json.loads(to_line(found))["messages"][2]["tool_calls"] == [{"id": "t1"}]


def test_content_parts_are_joined_and_other_parts_are_refused(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Where "}, {"type": "text", "text": "is it?"}]
    assert said(one(tmp_path, {"messages": [{"role": "user", "content": parts}]})) == [("user", "Where is it?")]
    image = [{"type": "image_url", "image_url": {"url": "http://x"}}]
    with pytest.raises(DataError, match=r"data\.jsonl:1: messages\.0\.content"):
        one(tmp_path, {"messages": [{"role": "user", "content": image}]})


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "completion": "Hello!"},
        {
            "prompt": [{"role": "user", "content": "Hi"}],
            "completion": [{"role": "assistant", "content": "Hello!"}],
        },
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
        {"messages": [{"role": "customer", "content": "Hi"}, {"role": "agent", "content": "Hello!"}]},
        # Azure ML keeps a weight beside the content
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!", "weight": 1}]},
    ],
    ids=["trl-text", "trl-messages", "sharegpt", "own-roles", "azure"],
)
def test_other_forms_mean_the_same(tmp_path: Path, row: dict[str, Any]) -> None:
    found = one(tmp_path, row)
    assert said(found) == [("user", "Hi"), ("assistant", "Hello!")]
    assert found.id == "data-000001"


def test_json_file_with_a_list(tmp_path: Path) -> None:
    path = write(tmp_path / "data.json", f"\ufeff[{GOOD_LINE}, {GOOD_LINE}]")
    assert [c.id for c in read_conversations(path)] == ["data-000001", "data-000002"]


def test_json_keys_can_be_mapped(tmp_path: Path) -> None:
    row = {"instruction": "Hi", "response": "Hello!", "kind": "greeting"}
    mapped = {"user": "instruction", "assistant": "response", "intent": "kind"}
    found = one(tmp_path, row, column_map=mapped)
    assert said(found) == [("user", "Hi"), ("assistant", "Hello!")]
    assert found.intent == "greeting"


@pytest.mark.parametrize(
    ("value", "intent"), [("refund", "refund"), (["refund", "x"], "refund"), ([], None), ("", None), (3, None)]
)
def test_intent(value: Any, intent: str | None) -> None:
    assert conversation(("user", "Hi"), intent=value).intent == intent


# CSV


def test_csv_with_bom_semicolons_and_quotes(tmp_path: Path) -> None:
    text = '\ufeffinstruction;response;intent\n"Hi; there";"Hello,\nhow can I help?";greet\nBye;;\n'
    path = write(tmp_path / "data.csv", text)
    first, second = read_conversations(path, column_map=parse_column_map("user=instruction, assistant=response"))
    assert said(first) == [("user", "Hi; there"), ("assistant", "Hello,\nhow can I help?")]
    assert said(second) == [("user", "Bye")]


def test_csv_metadata_and_id_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", "no,q,a,kind\nA1,Hi,Hello,greet\n")
    (found,) = read_conversations(path, column_map={"id": "no", "user": "q", "assistant": "a", "intent": "kind"})
    assert (found.id, found.intent) == ("A1", "greet")


def test_csv_rows_of_one_thread_are_one_conversation(tmp_path: Path) -> None:
    rows = "ticket,q,a\nT1,Hi,Hello\nT2,Where?,There\nT1,And now?,Goodbye\n"
    mapped = {"conversation": "ticket", "user": "q", "assistant": "a"}
    found = read_conversations(write(tmp_path / "data.csv", rows), column_map=mapped)
    assert [c.id for c in found] == ["T1", "T2"]
    assert [text for _, text in said(found[0])] == ["Hi", "Hello", "And now?", "Goodbye"]
    assert [turn.reference for turn in found[0].turns()] == ["Hello", "Goodbye"]


def test_csv_rows_without_a_thread_stay_apart(tmp_path: Path) -> None:
    rows = "ticket,q,a\n,Where is my parcel?,On its way\n,I want a refund,Of course\n"
    mapped = {"conversation": "ticket", "user": "q", "assistant": "a"}
    found = read_conversations(write(tmp_path / "data.csv", rows), column_map=mapped)
    assert [c.turns()[0].query for c in found] == ["Where is my parcel?", "I want a refund"]


def test_csv_without_a_map_says_how_to_give_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--map user=COLUMN") as caught:
        read_conversations(write(tmp_path / "data.csv", "q,a\nHi,Hello\n"))
    assert "'q', 'a'" in str(caught.value)


def test_csv_with_a_wrong_column_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'question'; there are: 'q', 'a'"):
        read_conversations(write(tmp_path / "data.csv", "q,a\nHi,Hello\n"), column_map={"user": "question"})


def test_csv_in_another_encoding_is_reported_in_words(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", "q,a\nKöln?,Ja\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"data\.csv"):
        read_conversations(path, column_map={"user": "q", "assistant": "a"})


def test_csv_cell_over_the_reader_s_limit_is_reported_in_words(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", f"q,a\nHi,{'x' * 200_000}\n")
    bad: list[BadLine] = []
    with pytest.raises(DataError, match=r"data\.csv"):
        read_conversations(path, column_map={"user": "q", "assistant": "a"}, bad=bad)


@pytest.mark.parametrize("text", ["user", "user=", "=x", "user=a,assistant"])
def test_column_map_in_another_form(text: str) -> None:
    with pytest.raises(DataError, match="TARGET=COLUMN"):
        parse_column_map(text)


# Bad lines

BAD_LINES = {
    "not JSON": (b'{"messages": [', "not JSON"),
    "not UTF-8": (b'{"messages": "\xff"}', "not UTF-8"),
    "a list": (b"[1]", "expected an object"),
    "a number": (b"3", "expected an object"),
    "no messages": (b'{"text": "Hi"}', "no key 'messages'; there are: 'text'"),
    "empty messages": (b'{"messages": []}', "messages"),
    "messages no list": (b'{"messages": "Hi"}', "messages"),
    "unknown role": (b'{"messages": [{"role": "robot", "content": "Hi"}]}', "messages.0.role"),
    "no content": (b'{"messages": [{"role": "user"}]}', "messages.0.content"),
    "content a number": (b'{"messages": [{"role": "user", "content": 3}]}', "messages.0.content"),
    "no user": (b'{"messages": [{"role": "assistant", "content": "Hi"}]}', "no message of the user"),
    "metadata no object": (b'{"messages": [{"role": "user", "content": "Hi"}], "metadata": 3}', "metadata"),
    "sharegpt without from": (b'{"conversations": [{"role": "user", "content": "Hi"}]}', ""),
    "sharegpt without value": (b'{"conversations": [{"from": "human"}]}', ""),
    "sharegpt no list": (b'{"conversations": 5}', ""),
    "sharegpt of texts": (b'{"conversations": ["Hi"]}', ""),
    "prompt a number": (b'{"prompt": 5}', ""),
    "prompt an object": (b'{"prompt": {"role": "user"}}', ""),
    "number without end": (b'{"id": ' + b"9" * 5000 + b"}", ""),
    "too deep": (b"[" * 100_000, ""),
    "half a character": (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "messages"),
    "facts no list": (b'{"messages": [{"role": "user", "content": "Hi"}], "metadata": {"facts": [3]}}', "facts"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_reported_with_file_line_and_reason(tmp_path: Path, name: str) -> None:
    line, reason = BAD_LINES[name]
    path = write(tmp_path / "data.jsonl", b"\n".join([GOOD_LINE.encode(), b"", line, GOOD_LINE.encode()]))
    bad: list[BadLine] = []
    good = read_conversations(path, bad=bad)
    assert len(good) == 2
    (found,) = bad
    assert (found.file, found.line) == (path, 3)
    assert reason in found.reason
    assert str(found).startswith(f"{path}:3: ")
    with pytest.raises(DataError, match=r"data\.jsonl:3: ") as caught:
        read_conversations(path)
    assert "1 of 3" in str(caught.value)
    assert "--skip-bad" in str(caught.value)


def test_facts_a_level_too_flat_are_not_taken_for_letters(tmp_path: Path) -> None:
    """`["30 days"]` where `[["30 days"]]` is meant: refused, or read as one alternative, never as '3', '0', ..."""
    row = {
        "messages": [{"role": "user", "content": "How long?"}, {"role": "assistant", "content": "30 days"}],
        "metadata": {"facts": [["30 days"]]},
    }
    bad: list[BadLine] = []
    path = write(tmp_path / "data.jsonl", json.dumps(row) + "\n" + GOOD_LINE)
    first = read_conversations(path, bad=bad)[0]
    assert bad or first.turns()[0].facts == (("30 days",),)


def test_a_repeated_id_names_the_first_line(tmp_path: Path) -> None:
    line = '{"id": "a", "messages": [{"role": "user", "content": "Hi"}]}\n'
    with pytest.raises(DataError, match=r"data\.jsonl:2: id 'a' stands already in line 1"):
        read_conversations(write(tmp_path / "data.jsonl", line * 2))


def test_a_line_over_the_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", f'{GOOD_LINE}\n{{"x": "{"x" * MAX_LINE_BYTES}"}}\n')
    bad: list[BadLine] = []
    assert len(read_conversations(path, bad=bad)) == 1
    assert "at most 4,000,000" in bad[0].reason
    assert len(bad[0].text) <= 2000


def test_many_bad_lines_are_counted_and_the_first_shown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="9 of 9 entries") as caught:
        read_conversations(write(tmp_path / "data.jsonl", "nonsense\n" * 9))
    assert "and 4 more" in str(caught.value)


@SHARED_FOLDER
@given(
    lines=st.lists(
        st.binary(max_size=40).map(lambda b: b.replace(b"\n", b""))
        | _json.map(lambda value: json.dumps(value).encode())
        | _row.map(lambda row: json.dumps(row | {"id": "x"}).encode()),
        max_size=8,
    )
)
def test_nothing_is_lost(lines: list[bytes], tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", b"\n".join([GOOD_LINE.encode(), *lines]))
    bad: list[BadLine] = []
    good = read_conversations(path, bad=bad)
    assert len(good) + len(bad) == 1 + sum(bool(line.strip()) for line in lines)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("a.jsonl", "", "holds no conversation"), ("a.json", "{", "a.json:1: not JSON"), ("a.json", "[]", "no conv")],
)
def test_a_file_with_nothing_in_it(tmp_path: Path, name: str, content: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_conversations(write(tmp_path / name, content))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl: cannot be read \(No such file"):
        read_conversations(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_conversations(tmp_path)


def test_a_json_file_in_another_encoding_is_reported_in_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json"):
        read_conversations(write(tmp_path / "a.json", '["Köln"]'.encode("latin-1")))


# Turns


def test_turns_pair_queries_with_references() -> None:
    turns = conversation(
        ("system", "S"), ("user", "A"), ("assistant", "1"), ("user", "B"), ("user", "C"), ("assistant", "2")
    ).turns()
    assert [(t.index, t.query, t.reference) for t in turns] == [(0, "A", "1"), (1, "B\nC", "2")]


def test_a_greeting_is_history_and_no_turn() -> None:
    (turn,) = conversation(("assistant", "Welcome!"), ("user", "A"), ("assistant", "1")).turns()
    assert [m.content for m in turn.context] == ["Welcome!", "A"]
    assert (turn.query, turn.reference) == ("A", "1")


def test_several_replies_in_a_row_are_one_reference() -> None:
    (turn,) = conversation(("user", "A"), ("assistant", "1"), ("assistant", "2")).turns()
    assert turn.reference == "1\n2"


def test_a_last_question_without_a_reply_is_a_turn() -> None:
    turns = conversation(("user", "A"), ("assistant", "1"), ("user", "B")).turns()
    assert [(t.query, t.reference) for t in turns] == [("A", "1"), ("B", None)]


def test_without_any_reply_every_question_is_a_turn() -> None:
    turns = conversation(("user", "A"), ("tool", "x"), ("user", "B")).turns()
    assert [(t.query, t.reference) for t in turns] == [("A", None), ("B", None)]
    assert [m.content for m in turns[0].context] == ["A", "x"]


def test_a_tool_s_message_belongs_to_the_turn_that_answers_it() -> None:
    (turn,) = conversation(("user", "A"), ("tool", "42"), ("assistant", "It is 42")).turns()
    assert [m.role for m in turn.context] == ["user", "tool"]
    assert turn.query == "A"


@pytest.mark.parametrize("before_the_call", ["", "One moment, I look."])
def test_the_reply_after_a_tool_call_is_a_reference(before_the_call: str) -> None:
    """OpenAI's form: the assistant calls a tool (content null), the tool answers, the assistant replies."""
    turns = conversation(
        ("user", "Where is FH1?"), ("assistant", before_the_call), ("tool", "in Berlin"), ("assistant", "In Berlin.")
    ).turns()
    assert "In Berlin." in "\n".join(turn.reference or "" for turn in turns)
    assert "in Berlin" in [m.content for turn in turns for m in turn.context]


@given(roles=st.lists(st.sampled_from(["user", "assistant", "tool"]), max_size=8))
def test_turns_lose_no_message_that_leads_to_a_reply(roles: list[str]) -> None:
    messages = [("user", "0"), *((role, str(k)) for k, role in enumerate(roles, start=1))]
    turns = conversation(*messages).turns()
    shown = [
        text for t in turns for text in [*(m.content for m in t.context), *(t.reference or "").split("\n")] if text
    ]
    last = max((k for k, (role, _) in enumerate(messages) if role != "tool"), default=0)
    assert shown[: last + 1] == [text for _, text in messages[: last + 1]]
    assert [t.index for t in turns] == list(range(len(turns)))


def test_facts_go_with_their_turns() -> None:
    turns = conversation(
        ("user", "A"),
        ("assistant", "1"),
        ("user", "B"),
        ("assistant", "2"),
        facts=[[["30 days", "a month"], ["$5"]]],
        forbidden=[None, [["14 days"]]],
    ).turns()
    assert turns[0].facts == (("30 days", "a month"), ("$5",))
    assert (turns[0].forbidden, turns[1].facts) == ((), ())
    assert turns[1].forbidden == (("14 days",),)


def test_history_holds_the_given_replies_and_not_the_references() -> None:
    turns = conversation(("user", "A"), ("assistant", "1"), ("user", "B"), ("assistant", "2"), ("user", "C")).turns()
    messages = history(turns, ["own 1", "own 2", "own 3"], 1, "S")
    assert [(m.role, m.content) for m in messages] == [
        ("system", "S"),
        ("user", "A"),
        ("assistant", "own 1"),
        ("user", "B"),
    ]
    assert [m.content for m in history(turns, [], 0, None)] == ["A"]


# Files this program wrote


def test_a_torn_last_line_is_left_out_and_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"a": 1}\n{"a": 2}\n{"a": ')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]
    drop_torn_line(path)
    with path.open("a") as file:
        file.write('{"a": 3}\n')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_drop_torn_line_leaves_a_whole_file_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"a": 1}\n')
    drop_torn_line(path)
    drop_torn_line(tmp_path / "absent.jsonl")
    assert path.read_text() == '{"a": 1}\n'
    assert read_jsonl(tmp_path / "absent.jsonl") == []
    drop_torn_line(write(path, '{"torn'))
    assert path.read_bytes() == b""
