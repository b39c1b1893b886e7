"""Chat templates of published kinds: transformers' ids, and exactly what the assistant says."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from labkit.errors import LabError
from labkit.text.chat import (
    encode_document,
    encode_messages,
    encode_next_turn,
    encode_prompt,
    encode_prompt_and_answer,
)
from labkit.text.tokenizer import Tokenizer
from labkit.world import Document, Message
from tests.published import byte_level, sentencepiece

DATED = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = "" %}{%- endif %}
{{- "<|head|>system<|mid|>\\n\\nToday: " + date_string + "\\n\\n" }}
{%- if tools is not none %}{{- raise_exception("No tools.") }}{%- endif %}
{{- system + "<|eot|>" }}
{%- for message in messages %}
    {{- '<|head|>' + message['role'] + '<|mid|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|mid|>\\n\\n' }}{%- endif %}
"""
THINKING = """{%- set ns = namespace(last=messages|length - 1, looking=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.looking and message.role == "user" and message.content is string %}
        {%- set ns.looking = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}{%- set thought = '' %}
    {%- if message.role == "assistant" and '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == "assistant" and loop.index0 > ns.last and (loop.last or thought) %}
        {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""
INST = """{{ bos_token }}{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
    {% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}
    {% endif %}
{% endfor %}"""
TURNED = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}
{% endif %}{% for message in messages %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<|start|>' + role + '\\n' + message['content'] | trim + '<|stop|>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|start|>model\\n' }}{% endif %}"""
TAGGED = """{% for message in messages %}{% if not message['content'] %}{% continue %}{% endif %}
{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\\n' }}{% generation %}
{{ message['content'] + '<|im_end|>\\n' }}{% endgeneration %}
{% else %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | tojson + '<|im_end|>\\n' }}{% endif %}
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
CHATML = ["<|im_start|>", "<|im_end|>"]

FORMS: dict[str, dict[str, Any]] = {
    "dated": {"specials": ["<|bos|>x", "<|eot|>", "<|head|>", "<|mid|>"], "chat_template": DATED, "bos": True},
    "thinking": {"specials": CHATML, "added": ("<think>", "</think>"), "bos_token": None, "chat_template": THINKING},
    "alternating": {"specials": ["<s>", "</s>"], "chat_template": INST},
    "an end of its own": {"specials": ["<bos>", "<eos>", "<|start|>", "<|stop|>"], "chat_template": TURNED},
    "tagged": {"specials": CHATML, "chat_template": TAGGED},
}
ANSWERS = {
    "dated": ["In the park.<|eot|>", "<b>Why</b> not?<|eot|>"],
    "thinking": ["In the park.<|im_end|>", "<think>\n\n</think>\n\n<b>Why</b> not?<|im_end|>"],
    "alternating": [" In the park. </s>", " <b>Why</b> not? </s>"],
    "an end of its own": ["In the park.<|stop|>", "<b>Why</b> not?<|stop|>"],
    "tagged": ["In the park.<|im_end|>\n", "<b>Why</b> not?<|im_end|>\n"],
}
TALK = (
    Message("user", "Where is <Tom> & 'she'?"),
    Message("assistant", "In the park."),
    Message("user", "Why?\n\nWhere?"),
    Message("assistant", "<b>Why</b> not?"),
)
SYSTEM = Message("system", "Be brief.")


@pytest.fixture(params=FORMS)
def form(request, tmp_path) -> tuple[str, Tokenizer, Any]:
    byte_level(tmp_path, **FORMS[request.param])
    return request.param, Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)


def said(tokenizer: Tokenizer, row) -> list[str]:
    """What counts of a row, stretch by stretch."""
    found: list[list[int]] = []
    open_ = False
    for token, counts in zip(*row, strict=True):
        if counts and not open_:
            found.append([])
        if counts:
            found[-1].append(token)
        open_ = counts
    return [tokenizer.decode(ids, keep_special_tokens=True) for ids in found]


def learnt(tokenizer: Tokenizer, messages) -> list[str]:
    """What counts of a conversation."""
    return said(tokenizer, encode_document(tokenizer, Document("chat", "", tuple(messages)), 1000))


def rows(messages) -> list[dict[str, str]]:
    return [message._asdict() for message in messages]


def test_the_ids_are_those_of_transformers(form):
    name, ours, theirs = form
    for talk in (TALK, TALK[:1], TALK[:3], (SYSTEM, *TALK)):
        if talk[0] == SYSTEM and name in ("alternating", "an end of its own"):
            continue
        options: dict[str, Any] = {"return_dict": False}
        assert encode_messages(ours, talk) == theirs.apply_chat_template(rows(talk), **options)
        if talk[-1].role == "user":
            options["add_generation_prompt"] = True
            assert encode_prompt(ours, talk) == theirs.apply_chat_template(rows(talk), **options)


def test_exactly_what_the_assistant_says_counts(form):
    name, ours, theirs = form
    row = encode_document(ours, Document("chat", "", TALK), 500)
    assert row[0] == encode_messages(ours, TALK)
    assert said(ours, row) == ANSWERS[name]
    if name == "tagged":
        options: dict[str, Any] = {"return_dict": True, "return_assistant_tokens_mask": True}
        assert row[1] == [bool(x) for x in theirs.apply_chat_template(rows(TALK), **options)["assistant_masks"]]


def test_an_answer_ends_its_row_and_counts_alone(form):
    name, ours, _ = form
    ids, counts = encode_prompt_and_answer(ours, TALK[:3], TALK[3].content)
    assert said(ours, (ids, counts)) == ANSWERS[name][1:] and counts[-1]
    prompt = encode_prompt(ours, TALK[:3])
    assert ids[: len(prompt)] == prompt and counts.index(True) == len(prompt)


def test_an_answer_of_weight_0_is_not_learned(form):
    name, ours, _ = form
    assert learnt(ours, (TALK[0], TALK[1]._replace(weight=0), *TALK[2:])) == ANSWERS[name][1:]


def test_special_tokens_that_somebody_types_are_text(form):
    _, ours, theirs = form
    end = ours.decode([ours.turn_end_id], keep_special_tokens=True)
    typed = (Message("user", f"Hello{end}\n<|im_start|> \U0010ff00<think>"), *TALK[1:])
    ids = encode_messages(ours, typed)
    assert ids.count(ours.turn_end_id) == encode_messages(ours, TALK).count(ours.turn_end_id)
    plain = (Message("user", f"Hello{end}\n<|im_start|> <think>"), *TALK[1:])
    assert ids == encode_messages(ours, plain)
    assert end in ours.decode(ids) and learnt(ours, typed) == learnt(ours, TALK)
    if (
        ours.backend.token_to_id("<think>") is None
    ):  # which transformers takes for a special token, for it is in the template
        expected = theirs.apply_chat_template(rows(plain), sanitize_control_tokens=True, return_dict=False)
        assert ids == expected


def test_a_turn_ends_where_the_template_ends_it(form):
    name, ours, _ = form
    assert ours.decode([ours.turn_end_id], keep_special_tokens=True) == ANSWERS[name][0].split(".")[1].strip()
    assert set(ours.stop_ids) == {ours.turn_end_id, ours.eos_token_id}


def test_a_thought_is_shown_and_ends_nothing(tmp_path):
    byte_level(tmp_path, **FORMS["thinking"])
    ours = Tokenizer.load(tmp_path)
    thought = ours.token_to_id("<think>")
    assert thought not in ours.stop_ids and thought not in ours.special_token_ids
    assert ours.decode([thought, *ours.encode("why")]) == "<think>why" and ours.token_text(thought) == "<think>"
    assert ours.encode("a <think> b").count(thought) == 1
    talk = (TALK[0], Message("assistant", "<think>\nWell.\n</think>\n\nIn the park."))
    assert learnt(ours, talk) == ["<think>\nWell.\n</think>\n\nIn the park.<|im_end|>"]


def test_what_a_template_refuses_is_said(tmp_path):
    byte_level(tmp_path, **FORMS["an end of its own"])
    with pytest.raises(LabError, match="System role not supported .*--chat-template plain"):
        encode_prompt(Tokenizer.load(tmp_path), [SYSTEM, *TALK[:1]])


@pytest.mark.parametrize(
    "template,message",
    [
        ("{{ messages | nothing }}", "cannot be rendered"),
        ("{{ raise_exception('Never.') }}", "cannot be rendered: Never."),
        ("{{ messages.__class__.__mro__ }}", "cannot be rendered"),
        ("{% set x = namespace(_a=1) %}", "cannot be rendered"),
        ("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }};{% endfor %}", "with no end token"),
        (
            "{% for m in messages %}{{ m['content'] | upper }}{{ eos_token }}{% endfor %}",
            "changes the assistant's messages",
        ),
        ("{% for m in messages %}{{ m['content'] | tojson }}{{ eos_token }}{% endfor %}", "changes the assistant"),
        (
            "{% for m in messages %}{{ m['content'].split() | join(' ') }}{{ eos_token }}{% endfor %}",
            "changes the",
        ),
        (
            "{% for m in messages %}{{ m['content'][:20] }}{{ eos_token }}{% endfor %}",
            "changes the assistant's messages",
        ),
        ("{% for m in messages %}{{ m['content'] | length }}{{ eos_token }}{% endfor %}", "cannot be found again"),
        (
            "{% for m in messages %}{% generation %}{% endgeneration %}{{ m['content'] }}{% endfor %}",
            "does not mark each",
        ),
    ],
)
def test_a_template_that_cannot_be_followed_is_refused_and_a_mend_named(template, message, tmp_path):
    byte_level(tmp_path, CHATML, chat_template=template)
    with pytest.raises(LabError, match=f"{message}.*--chat-template plain"):
        Tokenizer.load(tmp_path)


def test_only_whole_exchanges_that_fit_are_taken(form):
    _, ours, _ = form
    document = Document("chat", "", TALK)
    whole, _ = encode_document(ours, document, 500)
    one, _ = encode_document(ours, document._replace(messages=TALK[:2]), 500)
    assert encode_document(ours, document, len(whole) - 1)[0] == one
    cut, counts = encode_document(ours, document, 5)
    assert cut == one[:5] and len(counts) == 5


def test_a_text_before_the_turns_is_a_text_of_its_own(tmp_path):
    byte_level(tmp_path, **FORMS["dated"])
    ours = Tokenizer.load(tmp_path)
    ids, counts = encode_document(ours, Document("story", "Tom is here.", TALK[:2]), 500)
    assert ids == [ours.bos_token_id, *ours.encode("Tom is here."), ours.eos_token_id, *encode_messages(ours, TALK[:2])]
    assert said(ours, (ids, counts)) == ANSWERS["dated"][:1]


def test_no_blank_is_put_before_each_turn_by_sentencepiece(tmp_path):
    sentencepiece(tmp_path, legacy=False, chat_template=INST, tokenizer_class="PreTrainedTokenizerFast")
    ours, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    typed = (Message("user", "Where</s>is <s> Tom?"), *TALK[1:])
    for talk in (TALK, typed):
        expected = theirs.apply_chat_template(rows(talk), sanitize_control_tokens=True, return_dict=False)
        assert encode_messages(ours, talk) == expected
    assert learnt(ours, typed) == ["In the park. </s>", "<b>Why</b> not? </s>"]
    ids, counts = encode_prompt_and_answer(ours, TALK[:1], "In the park.")
    assert ids[: counts.index(True)] == encode_prompt(ours, TALK[:1])


def test_a_conversation_goes_on_from_the_tokens_of_an_answer(form):
    """Prompt, answer and next turn are the ids of the whole; a template that takes thoughts away later is refused."""
    name, ours, _ = form
    asked = "And\nShe?"
    if name == "thinking":
        with pytest.raises(LabError, match="writes earlier turns differently once others follow"):
            encode_next_turn(ours, asked)
        return
    for before in (1, 3):
        row, _ = encode_prompt_and_answer(ours, TALK[:before], TALK[before].content)
        end = len(row) - row[::-1].index(ours.turn_end_id)
        whole = encode_prompt(ours, (*TALK[: before + 1], Message("user", asked)))
        assert [*row[:end], *encode_next_turn(ours, asked)] == whole
