#!/usr/bin/env python3
"""Writes tests/model/data/chat_cases.json: what transformers makes of chat templates.

usage: make_chat_cases.py [FOLDER]    (needs transformers and jinja2; the tests do not)

FOLDER holds folders with a tokenizer_config.json (the environment variable FLA_TOKENIZERS of the
tests); without it their cases are left as they are. Their templates are not written down, only what
they make of the conversations here.
"""
import json
import os
import pathlib
import sys

import jinja2
import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _compile_jinja_template

DATA = pathlib.Path(__file__).with_name("data") / "chat_cases.json"

# Templates in their public forms.
TEMPLATES = {
    "chatml": """{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "llama-2": """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
""",
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}""",
    "mistral-v0.3": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}

{#- This block checks for alternating user/assistant messages, skipping tool calling messages #}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
            {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- else %}
                {{- "]" + eos_token }}
            {%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + ", " }}
        {%- if not message.tool_call_id is defined or message.tool_call_id|length != 9 %}
            {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
        {%- endif %}
        {{- '"call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
""",
    "deepseek-r1": """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<\uff5cUser\uff5c>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is none %}{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls']%}{%- if not ns.is_first %}{{'<\uff5cAssistant\uff5c><\uff5ctool\u2581calls\u2581begin\uff5c><\uff5ctool\u2581call\u2581begin\uff5c>' + tool['type'] + '<\uff5ctool\u2581sep\uff5c>' + tool['function']['name'] + '\\n' + '```json' + '\\n' + tool['function']['arguments'] + '\\n' + '```' + '<\uff5ctool\u2581call\u2581end\uff5c>'}}{%- set ns.is_first = true -%}{%- endif %}{%- endfor %}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}{%- if ns.is_tool %}{{'<\uff5ctool\u2581outputs\u2581end\uff5c>' + message['content'] + '<\uff5cend\u2581of\u2581sentence\uff5c>'}}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<\uff5cAssistant\uff5c>' + content + '<\uff5cend\u2581of\u2581sentence\uff5c>'}}{%- endif %}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if ns.is_output_first %}{{'<\uff5ctool\u2581outputs\u2581begin\uff5c><\uff5ctool\u2581output\u2581begin\uff5c>' + message['content'] + '<\uff5ctool\u2581output\u2581end\uff5c>'}}{%- set ns.is_output_first = false %}{%- else %}{{'\\n<\uff5ctool\u2581output\u2581begin\uff5c>' + message['content'] + '<\uff5ctool\u2581output\u2581end\uff5c>'}}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}{{'<\uff5ctool\u2581outputs\u2581end\uff5c>'}}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<\uff5cAssistant\uff5c>'}}{% endif %}""",
    "llama-3.2": """{{- bos_token }}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {{- "You have access to the following functions.\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}
{%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {{- "Given the following functions, please respond with a JSON.\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "smollm-generation": """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}{% endif %}{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\\n' }}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}

TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "The weather \u2014 \"now\" & <here>'s",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "enum": ["Z\u00fcrich", "\u6771\u4eac"]},
        "days": {"type": "integer", "default": 1, "minimum": 0.5, "exclusive": True, "x": None}},
        "required": ["city"]}, "return": {"type": "string"}}},
    {"type": "function", "function": {"name": "noop", "description": "", "parameters": {}}}]


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


def call(name, arguments, id="abc123def"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool(text, id="abc123def"):
    return {"role": "tool", "content": text, "tool_call_id": id, "name": "get_weather"}


CONVERSATIONS = {
    "one": dict(messages=[user("Hello")]),
    "no prompt": dict(messages=[user("Hello")], add_generation_prompt=False),
    "system": dict(messages=[system("You are terse."), user("Hi")]),
    "turns": dict(messages=[system("S"), user("a"), assistant("b"), user("c"), assistant("d"),
                            user("e")]),
    "ends with assistant": dict(messages=[user("a"), assistant("b")], add_generation_prompt=False),
    "space": dict(messages=[user("  lead\n\ttrail \n\n"), assistant("\n x \n"), user(" ")]),
    "other space": dict(messages=[user("\u00a0\u3000x\u2003\x1f\u200b"), assistant("\x1c"), user("\ufeff")]),
    "empty": dict(messages=[user("")]),
    "unicode": dict(messages=[user("na\u00efve \U0001f469\u200d\U0001f469\u200d\U0001f467 \u05e9\u05dc\u05d5\u05dd \u0000 \u0085 {{ x }} {% y %}"),
                              assistant("\u6771\u4eac\n"), user("\U0001f642")]),
    "special tokens in text": dict(messages=[user("<|im_end|></s>[/INST]")]),
    "wrong order": dict(messages=[user("a"), user("b")]),
    "assistant first": dict(messages=[assistant("a"), user("b")]),
    "system late": dict(messages=[user("a"), system("b"), user("c")]),
    "unknown role": dict(messages=[user("a"), {"role": "narrator", "content": "b"}]),
    "tools": dict(messages=[user("Weather?")], tools=TOOLS),
    "tools and system": dict(messages=[system("S"), user("Weather?")], tools=TOOLS),
    "tool call": dict(messages=[user("Weather?"), {"role": "assistant", "tool_calls": [
        call("get_weather", {"city": "Z\u00fcrich", "days": 2, "f": 1.5, "n": None, "l": [True, {}]})]},
        tool("12 \u00b0C"), assistant("It is 12 \u00b0C."), user("Thanks")], tools=TOOLS),
    "tool call with text": dict(messages=[user("Weather?"), assistant("Let me see.", tool_calls=[
        call("get_weather", {"city": "Bern"}), call("noop", {}, "123456789")]),
        tool("1"), tool("2", "123456789")], tools=TOOLS),
    "bad call id": dict(messages=[user("w"), {"role": "assistant", "tool_calls": [
        call("noop", {}, "1")]}, tool("1", "1")]),
    "reasoning": dict(messages=[user("2+2?"), assistant("4", reasoning_content="\nadd\n"), user("3+3?"),
                                assistant("6", reasoning_content="add again"), tool("x"),
                                assistant("done", reasoning_content="z")]),
    "reasoning in text": dict(messages=[user("q"), assistant("<think>\nhm\n</think>\n\nyes"), user("r"),
                                        assistant("<think>a</think>b<think>c</think>\n\nd")],
                              add_generation_prompt=False),
    "thinking off": dict(messages=[user("q")], kwargs={"enable_thinking": False}),
    "thinking on": dict(messages=[user("q")], kwargs={"enable_thinking": True}),
    "no content": dict(messages=[user("a"), {"role": "assistant", "content": None}]),
    "name": dict(messages=[{"role": "user", "name": "Ann", "content": "a"}]),
    "extra keys": dict(messages=[{"role": "user", "content": "a", "weight": 0.5, "tags": ["x"]}]),
    "template variables": dict(messages=[user("a")], tools=TOOLS,
                               kwargs={"tools_in_user_message": False, "date_string": "1 Jan 2030"}),
    "continue": dict(messages=[user("a"), assistant("It is ")], add_generation_prompt=False,
                     continue_final_message=True),
}

SNIPPETS = [
    # White space.
    "a\n{% if true %}\n b\n{% endif %}\n c\n", "  {% if true %}x{% endif %}  \n y", "a \n {%- if true -%} \n b \n {%- endif -%} \n c",
    "{{ 1 }}\n\n{{ 2 }} \n", "x {{- 1 -}} y", "a {#- c -#} b", " {# c #}\nb", "a\n  {# c #}\nb", "{%+ if true +%}\na{%+ endif %}\nb",
    "a\n  {%+ if true %}b{% endif %}", "{% raw %}{{ x }}{% y %}{% endraw %} z", "a {%- raw -%} {{ x }} {%- endraw -%} b", "\n\n{% raw %}\nx\n{% endraw %}\ny",
    "a\r\nb\rc{{ 'x\r\ny' }}", "end\n", "end\n\n", "{% for i in [1,2] %}\n  {{ i }}\n{% endfor %}", "{%- for i in [1,2] -%}\n  {{ i }}\n{%- endfor -%}",
    "\t{% set x = 1 %}\n\t{{ x }}", "{{ 'a' }}  {% if true %}b{% endif %}", "{{ '{%' }} { { }} % } {", "{% if true %}a{% endif %}{% if true %}\n{% endif %}b",
    # Literals.
    "{{ 'a\\n\\t\\\\\\'\\\"\\x41\\u00e9\\U0001f642\\101\\q' }}", "{{ \"it's\" }}{{ 'a' 'b' }}", "{{ 1_000 }} {{ 0x1F }} {{ 0b11 }} {{ 0o17 }} {{ 1e3 }} {{ 1.5e-7 }} {{ 2.0 }} {{ 1e16 }} {{ 123456789.123 }}",
    "{{ none }} {{ None }} {{ true }} {{ False }} {{ [1, 'a', none, 1.0, true] }} {{ {'a': 1, 2: [3]} }} {{ (1,) }} {{ () }} {{ (1, 2) }}",
    "{{ ['it\\'s', 'a\"b', 'n\\n', '\\x00\\u00a0\\u200b\u00e9\U0001f642'] }}", "{{ 1.0 / 3 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7.5 % -2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 7 / 2 }}",
    "{{ 'a' * 3 }} {{ [1] * 2 }} {{ 2 * 'ab' }} {{ 'a' * -1 }}|", "{{ 1 + 2 * 3 - 4 }} {{ (1 + 2) * 3 }} {{ -2 ** 2 }} {{ 2 ** 3 ** 2 }} {{ - 3 | abs }} {{ +1 }}",
    "{{ 'a' ~ 1 ~ none ~ [2] ~ x }}", "{{ 1 ~ 2 + 3 }}", "{{ '%s is %d and %f %% %r' % ('x', 3.7, 0.5, 'q') }} {{ '%s' % 5 }}", "{{ '{} {} {a}{{'.format(1, 2, a=3) }}{{ '{1}{0}'.format(1, 2) }}",
    # Comparison and logic.
    "{{ 1 == 1.0 }} {{ true == 1 }} {{ '1' == 1 }} {{ [1] == [1.0] }} {{ (1,) == [1] }} {{ {'a': 1} == {'a': 1} }} {{ none == false }}", "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 3 >= 3 != 4 }}",
    "{{ 'a' in 'cat' }} {{ 'a' not in ['b'] }} {{ 'k' in {'k': 1} }} {{ 2 in (1, 2) }} {{ not 1 in [1] }} {{ x in [1] }} {{ 'a' in x }}", "{{ 0 or 'x' }} {{ '' and 1 }}| {{ not [] }} {{ 1 and 2 or 3 }} {{ not not x }}",
    "{{ 'a' if true else 'b' }} {{ 'a' if false }}| {{ 1 if 0 else 2 if 0 else 3 }}", "{{ x }}|{{ x is defined }} {{ (x.y is defined) if x else 'no' }} {{ d.z is defined }}", "{{ x is defined if x else 1 }}", "{{ y.z is defined }}", "{{ x == y2 }} {{ x | default('d') }} {{ '' | default('d', true) }} {{ none | d('e') }} {{ x | default }}|",
    # Tests.
    "{{ 1 is integer }} {{ true is integer }} {{ true is boolean }} {{ 1.0 is float }} {{ 1 is number }} {{ true is number }} {{ 'a' is string }} {{ {} is mapping }} {{ [] is sequence }} {{ 'a' is sequence }} {{ {} is sequence }} {{ 1 is sequence }} {{ x is sequence }}",
    "{{ [] is iterable }} {{ 1 is iterable }} {{ x is iterable }} {{ none is none }} {{ x is none }} {{ 1 is true }} {{ true is true }} {{ false is false }} {{ 3 is odd }} {{ 3 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }}",
    "{{ 'abc' is lower }} {{ 'ABC' is upper }} {{ 1 is in [1] }} {{ 1 is not in [1] }} {{ 'a' is eq 'a' }} {{ 1 is sameas 1 }} {{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 1 is ge 2 }} {{ range is callable }} {{ 1 is callable }} {{ x is undefined }} {{ 1 is not defined }}",
    "{{ d.items() is sequence }} {{ d.items() is iterable }} {{ [1] | map('string') is iterable }} {{ [1] | map('string') is sequence }}", "{% if 'a' is string and 1 is number %}y{% endif %}{% if 1 is defined or zz %}z{% endif %}",
    # Subscripts.
    "{{ l[0] }} {{ l[-1] }} {{ l[9] }}| {{ l[1:] }} {{ l[:-1] }} {{ l[::-1] }} {{ l[::2] }} {{ l[5:1:-2] }} {{ l[-100:100] }} {{ l[3:1] }}", "{{ 'h\u00e9llo\U0001f642'[1] }} {{ 'h\u00e9llo\U0001f642'[-1] }} {{ 'h\u00e9llo\U0001f642'[::-1] }} {{ 'h\u00e9llo'[1:3] }} {{ 'abc'[:-1] }} {{ 'abc'[5:] }}| {{ 'abc'[9] }}|",
    "{{ d.a }} {{ d['a'] }} {{ d.get('a') }} {{ d.get('q') }} {{ d.get('q', 5) }} {{ d['items'] }} {{ d.keys() | list }} {{ d.values() | list }} {{ d.b.c.0 }} {{ d['b']['c'][1] }} {{ d.q }}|", "{{ (1, 2)[0] }} {{ [[1, 2], [3]][1][0] }} {{ {'a': {'b': 5}}.a.b }} {{ {1: 'x'}[1] }} {{ {true: 'y'}[1] }}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}", "{{ 'a b c'.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ ' a  b '.split(' ') }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b  c '.split(none, 1) }} {{ 'x\\ny\\r\\nz\\n'.splitlines() }} {{ ''.split() }} {{ ''.split(',') }}",
    "{{ ' \\n a \\t'.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'xyaxy'.lstrip('yx') }}|{{ 'xyaxy'.rstrip('yx') }}|{{ '\u3000a\u00a0'.strip() }}|", "{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abcabc'.replace('b', 'X') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'ab'.replace('', '-') }} {{ 'abc'.find('c') }} {{ 'abc'.find('z') }} {{ 'aXa'.count('a') }} {{ ','.join(['a', 'b']) }}",
    "{{ 'hello wORLD'.title() }} {{ 'hELLO'.capitalize() }} {{ 'aBc'.upper() }} {{ 'ABC\u00c9\u03a3'.lower() }} {{ 'stra\u00dfe'.upper() }} {{ \"they're bill's\".title() }} {{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ 'ab'.isalpha() }} {{ ' '.isspace() }} {{ 'prefix'.removeprefix('pre') }} {{ 'a.txt'.removesuffix('.txt') }} {{ 'Ab'.islower() }} {{ 'AB'.isupper() }}",
    "{{ l.index(3) }} {{ [1, 1, 2].count(1) }} {{ l.append }}|{{ l.append is defined }}", "{{ d._x }}|{{ 'a'.__class__ }}|",
    # Filters.
    "{{ ' a ' | trim }}|{{ 'xax' | trim('x') }}|{{ 'abc' | length }} {{ 'h\u00e9\U0001f642' | length }} {{ l | count }} {{ d | length }} {{ x | length }}", "{{ l | join }} {{ l | join(', ') }} {{ ms | join('-', attribute='role') }} {{ l | first }} {{ l | last }} {{ [] | first }}| {{ 'abc' | first }} {{ 'abc' | last }}",
    "{{ 'Ab c' | upper }} {{ 'Ab C' | lower }} {{ 'hello-world (foo) x' | title }} {{ 'hELLO wORLD' | capitalize }} {{ 5 | upper }} {{ none | lower }}", "{{ 'abc' | replace('b', 'X') }} {{ 'aaa' | replace('a', 'b', 2) }} {{ 123 | replace(2, 'x') }}",
    "{{ ms | map(attribute='role') | list }} {{ l | map('string') | join('+') }} {{ ['a ', ' b'] | map('trim') | list }} {{ ms | map(attribute='zz', default='?') | list }} {{ [d] | map(attribute='b.c.1') | list }}", "{{ ms | selectattr('role', 'equalto', 'user') | list | length }} {{ ms | selectattr('role', 'in', ['user', 'tool']) | map(attribute='content') | join(',') }} {{ ms | rejectattr('role', 'eq', 'user') | map(attribute='role') | list }} {{ ms | selectattr('x') | list }} {{ l | select('odd') | list }} {{ l | reject('odd') | list }} {{ [0, 1, ''] | select | list }} {{ l | select('gt', 2) | list }}",
    "{{ d | items | list }} {{ d | dictsort }} {{ {'B': 1, 'a': 3, 'C': 2} | dictsort }} {{ {'B': 1, 'a': 3} | dictsort(true) }} {{ {'B': 1, 'a': 3, 'C': 2} | dictsort(by='value', reverse=true) }}", "{{ [3, 1, 2] | sort }} {{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A'] | sort(case_sensitive=true) }} {{ [1, 2] | sort(reverse=true) }} {{ ms | sort(attribute='role') | map(attribute='content') | join }} {{ ['a', 'A', 'b', 'a'] | unique | list }} {{ [1, 2, 1] | unique | join(',') }}",
    "{{ 'abc' | list }} {{ l | string }} {{ 5 | string | length }} {{ '42' | int }} {{ '4.7' | int }} {{ 'x' | int }} {{ 'x' | int(9) }} {{ 3.9 | int }} {{ 'ff' | int(base=16) }} {{ '1.5' | float }} {{ 'q' | float }} {{ 3 | float }} {{ true | int }}", "{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.675 | round(2) }} {{ 42.55 | round(1, 'floor') }} {{ 42.51 | round(method='ceil') }} {{ 42 | round }} {{ 1.0 | round | int }} {{ -5 | abs }} {{ [1, 2.5] | sum }} {{ ms | map(attribute='content') | map('length') | sum }} {{ [1, 3, 2] | max }} {{ ['b', 'A'] | min }} {{ [] | max }}|",
    "{{ 'a\\nb\\n\\nc' | indent }} {{ 'a\\nb' | indent(2, true) }} {{ 'a\\n\\nb' | indent(2, blank=true) }} {{ 'a\\nb' | indent('> ') }}", "{{ l | reverse | list }} {{ 'abc' | reverse }} {{ 'a' | safe }} {{ '<a>' | safe ~ '<' }} {{ ('<a>' | safe) + '<b>' }} {{ '&' + ('x' | safe) }}",
    # JSON.
    "{{ d | tojson }} {{ [1, 2.0, 1e100, true, none, 'a\"\\\\\\n\\x01\\x7f\u00e9</script>&\\''] | tojson }} {{ {} | tojson }} {{ [] | tojson(indent=2) }} {{ () | tojson }} {{ (1, 2) | tojson }}", "{{ d | tojson(indent=2) }}", "{{ {'b': 1, 'a': [1, {'c': []}]} | tojson(indent=4, sort_keys=true) }} {{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}",
    "{{ {'a': [1, 2]} | tojson(separators=(',', ':')) }} {{ '\u00e9\U0001f642' | tojson(ensure_ascii=true) }} {{ '\u00e9' | tojson }} {{ [1] | tojson(indent='\\t') }}",
    # Statements.
    "{% if x %}a{% elif l %}b{% else %}c{% endif %}", "{% for i in [] %}a{% else %}b{% endfor %}", "{% for i in l if i > 1 %}{{ loop.index }}/{{ loop.length }}:{{ i }}{{ ',' if not loop.last }}{% endfor %}", "{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.depth }};{% endfor %}",
    "{% for i in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for i in l %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}", "{% for a, b in [[1, 2], (3, 4)] %}{{ a }}{{ b }}{% endfor %}{% for (a, b), c in [[[1, 2], 3]] %}{{ a ~ b ~ c }}{% endfor %}",
    "{% for i in [1, 2] %}{% for j in 'ab' %}{{ loop.index }}{{ i }}{{ j }}{% endfor %}{{ loop.index }}{% endfor %}", "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}", "{% set ns = namespace(a=1, b='x') %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c }}|",
    "{% set a, b = 1, [2] %}{{ a }}{{ b }}{% set t = 1, %}{{ t }}", "{% set x %}a{{ 1 }}{% set y = 5 %}{% endset %}{{ x }}{{ y }}|{% set z | upper | trim %} abc {% endset %}{{ z }}", "{% set ns = namespace() %}{% set ns.x %}block{% endset %}{{ ns.x }}",
    "{% macro m(a, b=2, c='z') %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m(1, 5, 6) }}{{ m() }}{{ m(b=7) | upper }}", "{% set g = 1 %}{% macro m() %}{{ g }}{% set g = 9 %}{% endmacro %}{% set g = 2 %}{{ m() }}{{ g }}", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% macro m(a) %}<{{ caller(a) }}{{ caller is defined }}>{% endmacro %}{% call(x) m(3) %}c{{ x }}{% endcall %}{{ m(1) if false }}", "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}body{% endcall %}", "{% macro m(l) %}{% for i in l %}{{ i }}{% endfor %}{% endmacro %}{% for i in [1, 2] %}{{ m([i, i]) }}{% endfor %}{{ i }}|",
    "{% filter upper %}ab{{ 'c' }}{% endfilter %}{% filter trim | replace('a', 'b') %} aa {% endfilter %}", "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}|", "{% print 1, 'a' %}", "{% generation %}a{{ 1 }}{% endgeneration %}\nb", "{% for i in range(3) %}{{ i }}{% endfor %}{{ range(1, 10, 3) | list }}{{ range(5, 0, -2) | list }}",
    "{{ dict(a=1, b=2) }} {{ dict({'x': 1}, y=2) | tojson }}", "{% set g = l | map('string') %}{% if g %}t{% endif %}{{ g | list }}{{ g | list }}", "{% set g = [] | select %}{{ 'true' if g else 'false' }}", "{% for c in 'h\u00e9\U0001f642' %}[{{ c }}]{% endfor %}", "{% for i in l if not ns_done %}{{ i }}{% endfor %}",
    "{% set ns = namespace(done=false) %}{% for i in l if not ns.done %}{{ i }}{% if i == 2 %}{% set ns.done = true %}{% endif %}{% endfor %}", "{{ strftime_now is defined }} {{ raise_exception is defined }} {{ namespace is defined }}", "{{ strftime_now('%%') }}", "{{ 'a' if x is not defined else 'b' }}{{ ms[0].role }}{{ ms[-1]['content'] }}{{ ms | length - 1 }}", "{% for m in ms[::-1] %}{{ m.role[0] }}{{ (ms|length - 1) - loop.index0 }}{% endfor %}",
    "{% if ms[0]['role'] == 'system' and 'x' not in d %}A{% endif %}{% if not (x is defined and x) %}B{% endif %}", "{% set m = ms[0] %}{{ m == ms[0] }}{{ m.content | trim | length }}", "{{- 'a' -}}\n{{- '' }}\n{%- if 1 %} b{% endif -%}\n\n c", "{%if true%}a{%endif%}{{1}}{#c#}", "{{ l|length>2 }}{{ 'a'|upper~'b'|upper }}{{ (l|first)|string + 'x' }}", "{{ [1, 2,] }}{{ {'a': 1,} }}{{ (1, 2,) }}",
    "{{ 1 if l is string else l[0] if l is iterable }}", "{{ {'a': 1}.items() | list }}{{ l is mapping }}{{ (d.b | tojson)[:-1] }}", "{% set a = ['x'] %}{% set a = a + ['y'] %}{{ a }}{{ a | join }}", "{% set c = 'x' %}{% if true %}{% set c = 'y' %}{% endif %}{{ c }}",
    # What fails, in both.
    "{{ x.y }}", "{{ x + 1 }}", "{{ 1 + 'a' }}", "{{ x() }}", "{{ 'a'.nope() }}", "{{ 1 / 0 }}", "{{ [1] < ['a'] }}", "{% for i in 5 %}{% endfor %}", "{{ raise_exception('no \u00e9!') }}", "{{ l.append(1) }}", "{{ (l | map('string')) | length }}", "{{ none.a.b }}", "{{ x | tojson }}", "{{ 'a' in 5 }}", "{{ 1 in 'a' }}", "{{ range(1000000) }}", "{% set q.a = 1 %}", "{{ namespace(_a=1) }}",
    "{{ l['a']['b'] }}", "{{ l[0:'a'] }}", "{% set five = 5 %}{{ five[0:1] }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m(z=2) }}", "{% for a, b in [1] %}{% endfor %}", "{% for a, b in [[1]] %}{% endfor %}", "{{ 'abc' | round }}", "{{ -'a' }}",
    # What is no template, in both.
    "{% if %}", "{% if true %}", "{% endif %}", "{{ }}", "{{ 1", "{{ 'a }}", "{% for x %}{% endfor %}", "{% nonsense %}", "{{ a | nonsense }}", "{{ a is nonsense }}", "{{ (1 }}", "{{ 1) }}", "{# x", "{% raw %}x", "{{ a b }}", "{% set 1 = 2 %}", "{% break %}", "{{ a. }}", "{{ 'a' 1 }}", "{% if true %}{% endfor %}", "{{ ! }}", "{% set true = 1 %}", "{{ f(a=1, 2) }}", "{% macro m(a=1, b) %}{% endmacro %}",
]
VARIABLES = {"l": [1, 2, 3, 4, 5], "d": {"a": 1, "b": {"c": ["x", "\u00e9"]}, "items": "I"},
             "ms": [{"role": "user", "content": "hi", "x": 1}, {"role": "assistant", "content": "yo"},
                    {"role": "tool", "content": "T"}]}


def snippet(source):
    case = {"template": source}
    try:
        compiled = _compile_jinja_template(source)
    except jinja2.exceptions.TemplateSyntaxError:
        return case | {"syntax_error": True}
    except SyntaxError:  # of the Python that Jinja makes of it
        return case | {"syntax_error": True}
    try:
        return case | {"text": compiled.render(**VARIABLES)}
    except Exception as error:
        raised = type(error) is jinja2.exceptions.TemplateError
        return case | ({"raised": str(error)} if raised else {"error": True})


def conversation(name, source, tokens, chat):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()),
                                        chat_template=source, **tokens)
    case = {"template": name}
    arguments = dict(chat)
    kwargs = arguments.pop("kwargs", {})
    arguments.setdefault("add_generation_prompt", True)
    try:
        text = tokenizer.apply_chat_template(arguments.pop("messages"), tokenize=False, **arguments,
                                             **kwargs)
        return case | {"text": text}
    except Exception as error:
        raised = type(error) is jinja2.exceptions.TemplateError
        return case | ({"raised": str(error)} if raised else {"error": True})


def main():
    sources = {name: (source, TOKENS) for name, source in TEMPLATES.items()}
    folder = sys.argv[1] if len(sys.argv) > 1 else None
    for path in sorted(pathlib.Path(folder).glob("*/tokenizer_config.json")) if folder else []:
        config = json.loads(path.read_text())
        if "chat_template" not in config:
            continue
        tokens = {k: v for k, v in config.items() if k in TOKENS and isinstance(v, str)}
        sources["FLA_TOKENIZERS/" + path.parent.name] = (config["chat_template"], tokens)
    kept = [] if folder or not DATA.exists() else [
        case for case in json.loads(DATA.read_text())["conversations"]
        if case["template"].startswith("FLA_TOKENIZERS/")]
    cases = []
    for title, chat in CONVERSATIONS.items():
        for name, (source, tokens) in sources.items():
            cases.append({"conversation": title} | conversation(name, source, tokens, chat))
    data = {"made_with": f"transformers {transformers.__version__}, Jinja2 {jinja2.__version__}",
            "templates": TEMPLATES, "tokens": TOKENS, "variables": VARIABLES,
            "snippets": [snippet(source) for source in SNIPPETS], "chats": CONVERSATIONS,
            "conversations": cases + kept}
    DATA.write_text(json.dumps(data, ensure_ascii=True, indent=0) + "\n")
    print(f"{len(data['snippets'])} snippets, {len(data['conversations'])} conversations")


if __name__ == "__main__":
    main()
