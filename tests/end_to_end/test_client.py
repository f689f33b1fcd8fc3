"""fla-cli against a running server."""
import json
import re
import subprocess

import pytest

from checkpoints import copy_golden
from server_process import CLI
from swapping import model, wait_for

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


@pytest.mark.parametrize("command", [
    ["generate", "--prompt", "a", "--max-new-tokens", "2"],
    ["generate", "--prompt", "a", "--max-new-tokens", "2", "--stream"],
    ["embed", "a", "--binary"], ["tokenize", "a"], ["models"], ["new-key", "alice"]])
def test_output_that_cannot_be_written_is_no_success(server, command):
    with open("/dev/full", "w") as full:
        result = subprocess.run([CLI, "--address", server.address, *command], stdout=full,
                                stderr=subprocess.PIPE, text=True, timeout=60)
    assert result.returncode == 1
    assert "standard output: cannot be written" in result.stderr


def test_models_and_health(server):
    result = cli(server, "models")
    assert result.returncode == 0
    assert re.search(r"demo +[0-9a-f]{12} +serving +kda +14\.7M +4096 .*\(default\)", result.stdout)
    result = cli(server, "health")
    assert (result.returncode, result.stdout) == (0, "SERVING\n")
    assert cli(server, "health", "--service", "fla.v1.Inference").returncode == 0
    assert cli(server, "health", "--service", "nothing").returncode == 1


def test_models_that_are_not_loaded_and_their_aliases(start_server, tmp_path):
    """bench brings a model to its server, by any of its names, as a request does."""
    gla = copy_golden("gla", tmp_path / "gla")
    wide = copy_golden("flash_linear_attention", tmp_path / "wide")
    server = start_server(models=[model("wide", wide),
                                  model("m", gla, aliases=["x", "y"], load="on_demand")],
                          default_model="wide")
    waiting = r"m +unloaded +- +- \w+ +f32 +- +-  also x, y\n"
    assert re.search(waiting, cli(server, "models").stdout)
    code, report = bench(server, "--model", "y", "--concurrency", "2", "--requests", "4")
    assert code == 0 and report["succeeded"] == 4
    table = cli(server, "models").stdout
    assert re.search(r"m +[0-9a-f]{12} +serving +gla +0\.\dM +\d+ .* kB  also x, y\n", table)
    assert len({line.index(" kB") for line in table.splitlines()[2:]}) == 1, table  # columns
    assert cli(server, "unload", "x").returncode == 0
    wait_for(lambda: re.search(waiting, cli(server, "models").stdout))
    result = cli(server, "load", "y")
    assert result.returncode == 0 and re.fullmatch(r"m \([0-9a-f]{12}\) is serving\n", result.stdout)
    for command in ("load", "unload"):
        result = cli(server, command, "z")
        assert result.returncode == 1 and "NOT_FOUND" in result.stderr
    result = cli(server, "bench", "--concurrency", "2", "--model", "z")
    assert result.returncode == 1 and "no model z" in result.stderr


def bench(server, *arguments):
    result = cli(server, "bench", "--prompt-tokens", "4-12", "--output-tokens", "2-8", "--json",
                 *arguments)
    assert result.stderr == ""
    return result.returncode, json.loads(result.stdout)


def test_bench_repeats_itself(server):
    code, first = bench(server, "--concurrency", "3", "--requests", "12", "--seed", "5")
    assert code == 0 and first["succeeded"] == 12 and first["errors"] == {}
    for metric in ("ttft_seconds", "tpot_seconds", "gap_seconds", "e2e_seconds"):
        row = first[metric]
        assert 0 < row["p50"] <= row["p90"] <= row["p95"] <= row["p99"] <= row["max"]
    assert first["ttft_seconds"]["count"] == first["e2e_seconds"]["count"] == 12
    # The same requests get the same tokens, however they are sent.
    _, again = bench(server, "--rate", "50", "--requests", "12", "--seed", "5")
    assert again["output_digest"] == first["output_digest"]
    _, other = bench(server, "--rate", "50", "--evenly", "--requests", "12", "--seed", "6")
    assert other["output_digest"] != first["output_digest"]


def test_bench_agrees_with_the_server(server, tmp_path):
    before = server.metrics()
    file = tmp_path / "report.json"
    code, report = bench(server, "--rate", "40", "--duration", "1", "--goodput", "e2e:60000",
                         "--output", str(file))
    assert code == 0 and json.loads(file.read_text()) == report
    assert report["good_requests_per_second"] == report["requests_per_second"] > 0
    after = server.metrics()

    def grown(name, **labels):
        key = ("fla_" + name, tuple(labels.items()))
        return after[key] - before[key]

    assert grown("requests_total", finish_reason="length") == report["requests"]
    for name, rate in [("prompt_tokens_total", "prompt_tokens_per_second"),
                       ("generation_tokens_total", "output_tokens_per_second")]:
        assert abs(grown(name) - report[rate] * report["seconds"]) < 0.5


def test_bench_counts_errors_and_cancellations(server):
    code, report = bench(server, "--concurrency", "4", "--requests", "20", "--cancel-fraction", "1")
    assert code == 0 and report["failed"] == 0
    assert report["cancelled"] + report["succeeded"] == 20 and report["cancelled"] > 0
    assert cli(server, "bench", "--rate", "2", "--output-tokens", "100000000").returncode != 0
    result = cli(server, "bench", "--concurrency", "2", "--requests", "3", "--output-tokens",
                 "1000000", "--warmup", "1")
    assert result.returncode == 1
    assert "3: 0 succeeded, 3 failed" in result.stdout
    assert "INVALID_ARGUMENT 3: max_new_tokens" in result.stdout
    assert cli(server, "bench").returncode != 0
    assert cli(server, "bench", "--concurrency", "2", "--rate", "2").returncode != 0


def test_errors_are_said(server):
    result = cli(server, "generate", "--prompt", "a", "--model", "gpt")
    assert result.returncode == 1 and "NOT_FOUND" in result.stderr and "demo" in result.stderr
    result = cli(server, "generate", "--prompt", "a", "--max-new-tokens", "30000", "--ignore-eos",
                 "--timeout", "0.2")
    assert result.returncode == 1 and "DEADLINE_EXCEEDED" in result.stderr
    result = cli(server, "generate", "--prompt", b"caf\xe9")
    assert result.returncode == 1 and "is all text UTF-8?" in result.stderr
    assert cli(server, "generate").returncode != 0
    assert cli(server, "generate", "--prompt", "a", "--prompt-file", "b").returncode != 0
    assert cli(server, "generate", "--prompt-file", "/nonexistent").returncode != 0
    assert cli(server, "generate", "--prompt", "a", "--stream", "--n", "2").returncode != 0
    assert cli(server, "nonsense").returncode != 0
    assert re.fullmatch(r"fla-cli \d+\.\d+\.\d+\n", cli(server, "--version").stdout)
    nowhere = subprocess.run([CLI, "--address", "127.0.0.1:1", "models"], capture_output=True,
                             text=True, timeout=60)
    assert nowhere.returncode == 1 and "UNAVAILABLE" in nowhere.stderr
