"""fla-cli against a running server."""
import json
import re
import subprocess

from server_process import CLI

PROMPT = "Once upon a time there was a little girl who"


def cli(server, *arguments, stdin=None):
    return subprocess.run([CLI, *arguments, "--address", server.address], input=stdin,
                          capture_output=True, text=True, timeout=120)


def test_generate(server):
    wanted = server.generate(text=PROMPT, temperature=0, max_new_tokens=20).choices[0].text
    common = ["generate", "--prompt", PROMPT, "--temperature", "0", "--max-new-tokens", "20"]
    for extra in ([], ["--stream"]):
        result = cli(server, *common, *extra)
        assert (result.returncode, result.stdout, result.stderr) == (0, wanted + "\n", "")
    result = cli(server, *common, "--stream", "--stats")
    assert result.stdout == wanted + "\n"
    assert re.search(r"time to first token: [\d.]+ ms", result.stderr)
    assert re.search(r"decode: [\d.]+ tokens/s", result.stderr)


def test_generate_from_a_file_and_from_tokens(server, tmp_path):
    wanted = server.generate(text=PROMPT, temperature=0, max_new_tokens=5).choices[0].text + "\n"
    rest = ["--temperature", "0", "--max-new-tokens", "5"]
    file = tmp_path / "prompt"
    file.write_text(PROMPT)
    assert cli(server, "generate", "--prompt-file", str(file), *rest).stdout == wanted
    assert cli(server, "generate", "--prompt-file", "-", *rest, stdin=PROMPT).stdout == wanted
    ids = ",".join(map(str, server.tokenize(PROMPT)))
    assert cli(server, "generate", "--token-ids", ids, *rest).stdout == wanted


def test_every_field_reaches_the_server(server):
    result = cli(server, "generate", "--prompt", PROMPT, "--model", "demo", "--request-id", "r",
                 "--temperature", "0.9", "--top-k", "50", "--top-p", "0.9", "--min-p", "0.01",
                 "--seed", "18446744073709551615", "--repetition-penalty", "1.1",
                 "--presence-penalty", "0.1", "--frequency-penalty", "0.1", "--max-new-tokens", "9",
                 "--min-new-tokens", "2", "--n", "2", "--stop", "\x01", "--stop", "\x02",
                 "--stop-token-id", "4000", "--include-stop-strings", "--ignore-eos", "--logprobs",
                 "1", "--prompt-logprobs", "1", "--priority", "2", "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["request_id"] == "r" and len(answer["choices"]) == 2
    assert len(answer["choices"][0]["logprobs"]) == len(answer["choices"][0]["token_ids"])
    # A value that is wrong is refused by the server, which shows that it went there.
    for flag in ("--top-k", "--min-new-tokens", "--n", "--stop-token-id", "--logprobs",
                 "--prompt-logprobs", "--max-new-tokens", "--min-p", "--presence-penalty",
                 "--frequency-penalty", "--repetition-penalty", "--top-p"):
        result = cli(server, "generate", "--prompt", "a", f"{flag}=-9")
        assert result.returncode == 1
        assert "INVALID_ARGUMENT: " in result.stderr and "got -9" in result.stderr


def test_tokenize_and_detokenize(server):
    ids = server.tokenize("two words")
    result = cli(server, "tokenize", "two words", "--ids-only")
    assert result.stdout == " ".join(map(str, ids)) + "\n"
    lines = cli(server, "tokenize", "two words").stdout.splitlines()
    assert [int(line.split("\t")[0]) for line in lines] == ids
    assert lines[0].endswith('"<|endoftext|>"')
    bare = cli(server, "tokenize", "two words", "--ids-only", "--no-special-tokens").stdout.split()
    assert list(map(int, bare)) == ids[1:]
    assert cli(server, "detokenize", *bare).stdout == "two words\n"
    assert cli(server, "detokenize", "0", *bare, "--skip-special-tokens").stdout == "two words\n"


def test_models_and_health(server):
    result = cli(server, "models")
    assert result.returncode == 0
    assert re.search(r"demo +kda +14\.7M +4096 .*\(default\)", result.stdout)
    result = cli(server, "health")
    assert (result.returncode, result.stdout) == (0, "SERVING\n")
    assert cli(server, "health", "--service", "fla.v1.Inference").returncode == 0
    assert cli(server, "health", "--service", "nothing").returncode == 1


def test_errors_are_said(server):
    result = cli(server, "generate", "--prompt", "a", "--model", "gpt")
    assert result.returncode == 1 and "NOT_FOUND" in result.stderr and "demo" in result.stderr
    result = cli(server, "generate", "--prompt", "a", "--max-new-tokens", "30000", "--ignore-eos",
                 "--timeout", "0.2")
    assert result.returncode == 1 and "DEADLINE_EXCEEDED" in result.stderr
    assert cli(server, "generate").returncode != 0
    assert cli(server, "generate", "--prompt", "a", "--prompt-file", "b").returncode != 0
    assert cli(server, "generate", "--prompt-file", "/nonexistent").returncode != 0
    assert cli(server, "generate", "--prompt", "a", "--stream", "--n", "2").returncode != 0
    assert cli(server, "nonsense").returncode != 0
    nowhere = subprocess.run([CLI, "--address", "127.0.0.1:1", "models"], capture_output=True,
                             text=True, timeout=60)
    assert nowhere.returncode == 1 and "UNAVAILABLE" in nowhere.stderr
