"""Conversations: a checkpoint's chat template, what it refuses, and fla-cli's part."""
import json
import shutil

import grpc
import pytest

from checkpoints import ROOT, copy_golden
from fla.v1 import inference_pb2 as pb
from server_process import DEVICE, request
from test_client import cli
from test_refusals import refusal

TEMPLATE = ("{%- for message in messages %}\n"
            "    {%- if message.role not in ['system', 'user', 'assistant'] %}\n"
            "        {{- raise_exception('No role ' + message.role) }}\n"
            "    {%- endif %}\n"
            "    {{- bos_token + message.role + '\\n' + message.content | trim + '\\n' }}\n"
            "{%- endfor %}\n"
            "{%- if mood is defined %}{{- mood }}{% endif %}\n"
            "{%- if tools %}{{- tools | tojson }}{% endif %}\n"
            "{%- if add_generation_prompt %}\n"
            "    {{- bos_token + 'assistant\\n' }}\n"
            "{%- endif %}\n")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The demonstration model with a template, and small ones with a broken one and with none."""
    folder = tmp_path_factory.mktemp("chat")
    shutil.copytree(ROOT / "demo/model", folder / "talks")
    (folder / "talks/chat_template.jinja").write_text(TEMPLATE)
    copy_golden("gla", folder / "silent")
    copy_golden("gla", folder / "broken")
    (folder / "broken/tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ 1 }}\n{% include 'x' %}"}))
    return folder


@pytest.fixture
def server(folders, start_server):
    return start_server(models=[{"name": name, "path": str(folders / name), "device": DEVICE}
                                for name in ("talks", "silent", "broken")], default_model="talks",
                        limits={"max_chat_messages": 8, "max_chat_bytes": 400})


def chat(*messages, **fields):
    return pb.Chat(messages=[pb.ChatMessage(role=role, content=content)
                             for role, content in messages], **fields)


def test_a_conversation_is_what_its_template_makes_of_it(server):
    conversation = chat(("system", "Be old."), ("user", " Once \n"), ("assistant", "upon"),
                        ("user", "a time <|endoftext|>"))
    text = ("<|endoftext|>system\nBe old.\n<|endoftext|>user\nOnce\n<|endoftext|>assistant\nupon\n"
            "<|endoftext|>user\na time <|endoftext|>\n<|endoftext|>assistant\n")
    ids = server.tokenize(text, add_special_tokens=False)
    assert ids.count(0) == 6  # no token in front of the template's own
    common = dict(temperature=0, max_new_tokens=12)
    wanted = server.generate(ids=ids, **common)
    answer = server.generate(chat=conversation, **common)
    assert answer.choices == wanted.choices and answer.usage == wanted.usage
    streamed = server.stream(chat=conversation, **common)
    assert "".join(m.delta.text for m in streamed) == wanted.choices[0].text


def prompt_tokens(server, conversation):
    return server.generate(chat=conversation, max_new_tokens=1).usage.prompt_tokens


def test_its_options_reach_the_template(server):
    def wanted(text):
        return len(server.tokenize(text, add_special_tokens=False))

    hello = ("user", "Hello")
    begin = "<|endoftext|>user\nHello\n"
    assert prompt_tokens(server, chat(hello, add_generation_prompt=False)) == wanted(begin)
    assert prompt_tokens(server, chat(hello, add_generation_prompt=False, template_arguments=(
        '{"mood": "dark and stormy"}'))) == wanted(begin + "dark and stormy")
    assert prompt_tokens(server, chat(hello, add_generation_prompt=False, tools=(
        '[{"b": 1, "a": "é"}]'))) == wanted(begin + '[{"b": 1, "a": "é"}]')
    assert prompt_tokens(server, chat(hello, ("assistant", "It was"), continue_final_message=True)
                         ) == wanted(begin + "<|endoftext|>assistant\nIt was")


@pytest.mark.parametrize("fields, words", [
    (dict(chat=chat()), ["chat.messages", "1 to 8", "got 0"]),
    (dict(chat=chat(*[("user", "a")] * 9)), ["chat.messages", "1 to 8", "got 9"]),
    (dict(chat=chat(("user", "a" * 500))), ["chat: ", "more than 400 bytes"]),
    (dict(chat=chat(("narrator", "a"))), ["chat: ", "refuses: No role narrator"]),
    (dict(chat=chat(("user", "a"), template_arguments='{"bos_token": 1}')), ["chat: ", "line 5"]),
    (dict(chat=chat(("user", "a"), tools="{}")), ["chat.tools", "array"]),
    (dict(chat=chat(("user", "a"), template_arguments="nonsense")), ["chat.template_arguments"]),
    (dict(chat=chat(("user", "a"), template_name="rag")), ["template_name", "default", "rag"]),
    (dict(chat=chat(("user", "a")), model="silent"), ["chat: ", "no chat template"]),
    (dict(chat=chat(("user", "a")), model="broken"), ["chat: ", "line 2", "include"]),
])
def test_refusals(server, fields, words):
    for call in (server.inference.Generate, server.inference.GenerateStream):
        code, details = refusal(call, request(**fields))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        for word in words:
            assert word in details
    # The server goes on, and models without a usable template continue texts.
    assert server.generate(text="a", max_new_tokens=1, model=fields.get("model", "talks")).choices
    log = server.log.read_text()
    assert "model broken: chat is refused: " in log and "include" in log
    assert "model silent: chat is refused" not in log


def test_the_client_converses(server):
    common = ["--temperature", "0", "--max-new-tokens", "8"]
    first = server.generate(chat=chat(("system", "S"), ("user", "Once upon")), temperature=0,
                            max_new_tokens=8).choices[0].text
    second = server.generate(
        chat=chat(("system", "S"), ("user", "Once upon"), ("assistant", first), ("user", "And")),
        temperature=0, max_new_tokens=8).choices[0].text
    again = server.generate(chat=chat(("system", "S"), ("user", "And")), temperature=0,
                            max_new_tokens=8).choices[0].text
    result = cli(server, "chat", "--system", "S", *common, stdin="Once upon\nAnd\n/reset\nAnd\n")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == first + "\n" + second + "\n" + again + "\n"
    # What is refused is left out of what follows.
    result = cli(server, "chat", "--system", "S", *common, stdin="a" * 500 + "\nAnd\n")
    assert result.returncode == 1 and "more than 400 bytes" in result.stderr
    assert result.stdout.endswith(again + "\n")

    result = cli(server, "generate", "--message", "system:S", "--message", "user:Once upon", *common)
    assert (result.returncode, result.stdout) == (0, first + "\n")
    assert cli(server, "generate", "--message", "nonsense").returncode != 0
    assert cli(server, "generate", "--message", "user:a", "--prompt", "a").returncode != 0
