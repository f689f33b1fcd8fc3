"""TLS, API keys, connections: who gets in, and what those outside are told."""
import json
import os
import subprocess

import grpc
import pytest

from fla.v1 import control_pb2, control_pb2_grpc, inference_pb2 as pb, inference_pb2_grpc
from server_process import CLI, SERVER, demo_config, request


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, folder, name):
        self.folder, self.certificate, self.key = folder, folder / f"{name}.pem", folder / f"{name}.key"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-days", 2, "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.certificate)

    def sign(self, name):
        key, asked, signed = (self.folder / f"{name}{end}" for end in (".key", ".csr", ".pem"))
        extensions = self.folder / "extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-subj", f"/CN={name}", "-keyout", key, "-out", asked)
        openssl("x509", "-req", "-days", 2, "-in", asked, "-CA", self.certificate, "-CAkey",
                self.key, "-CAcreateserial", "-extfile", extensions, "-out", signed)
        return signed, key


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
    return {"ca": ours.certificate, "server": ours.sign("server"), "client": ours.sign("client"),
            "stranger": theirs.sign("stranger")}


def tls_channel(server, pki, client=None):
    key, certificate = (client[1].read_bytes(), client[0].read_bytes()) if client else (None, None)
    return grpc.secure_channel(server.address, grpc.ssl_channel_credentials(
        pki["ca"].read_bytes(), key, certificate))


def tokens_over(channel, **options):
    with channel:
        answer = inference_pb2_grpc.InferenceStub(channel).Generate(
            request(text="Once", temperature=0, max_new_tokens=4, ignore_eos=True), timeout=30,
            **options)
        return list(answer.choices[0].token_ids)


def code_over(channel, **options):
    with pytest.raises(grpc.RpcError) as caught:
        tokens_over(channel, **options)
    return caught.value.code()


def cli(server, *arguments, **environment):
    others = {name: value for name, value in os.environ.items() if not name.startswith("FLA_")}
    return subprocess.run([CLI, *map(str, arguments), "--address", server.address],
                          capture_output=True, text=True, timeout=60, env={**others, **environment})


def test_tls(start_server, pki):
    certificate, key = pki["server"]
    server = start_server(tls={"certificate": str(certificate), "private_key": str(key)})
    assert len(tokens_over(tls_channel(server, pki))) == 4
    assert code_over(grpc.insecure_channel(server.address)) == grpc.StatusCode.UNAVAILABLE
    assert cli(server, "health", "--ca", pki["ca"]).stdout == "SERVING\n"
    assert cli(server, "health", "--timeout", "5").returncode != 0
    assert cli(server, "health", "--tls", "--timeout", "5").returncode != 0  # the system trusts it not


def test_mutual_tls(start_server, pki):
    certificate, key = pki["server"]
    server = start_server(tls={"certificate": str(certificate), "private_key": str(key),
                               "client_ca": str(pki["ca"])})
    assert len(tokens_over(tls_channel(server, pki, pki["client"]))) == 4
    for nobody in (None, pki["stranger"]):
        assert code_over(tls_channel(server, pki, nobody)) == grpc.StatusCode.UNAVAILABLE
    ours = ["--certificate", pki["client"][0], "--private-key", pki["client"][1]]
    assert cli(server, "health", "--ca", pki["ca"], *ours).stdout == "SERVING\n"
    assert cli(server, "health", "--ca", pki["ca"], "--timeout", "5").returncode != 0


def test_wrong_files_are_named_with_their_keys(tmp_path, pki):
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    certificate, key = pki["server"]
    for tls, words in [
            ({"certificate": str(junk), "private_key": str(key)},
             ["tls.certificate", str(junk), "certificate in PEM"]),
            ({"certificate": str(certificate), "private_key": str(junk)},
             ["tls.private_key", str(junk), "private key in PEM"]),
            ({"certificate": str(certificate), "private_key": str(pki["client"][1])},
             ["tls.private_key", str(pki["client"][1]), "wanted that of"]),
            ({"certificate": "absent.pem", "private_key": str(key)},
             ["tls.certificate", "absent.pem", "No such file"]),
            ({"certificate": str(certificate), "private_key": str(key), "client_ca": str(junk)},
             ["tls.client_ca", str(junk)]),
            ({"certificate": str(certificate)}, ["tls.private_key"]),
            (None, [f"api_keys: {junk}:1: "])]:
        file = tmp_path / "config.json"
        changes = {"tls": tls} if tls else {"api_keys": str(junk)}
        file.write_text(json.dumps(demo_config(**changes)))
        for flag in ("--check-config", "--config"):
            result = subprocess.run([SERVER, flag, file], capture_output=True, text=True, timeout=60)
            assert result.returncode == 1
            for word in words:
                assert word in result.stderr


def new_key(name, role):
    result = subprocess.run([CLI, "new-key", name, "--role", role], capture_output=True, text=True)
    assert result.returncode == 0
    return result.stdout.strip(), result.stderr


def test_api_keys(start_server, tmp_path):
    user, user_line = new_key("alice", "user")
    admin, admin_line = new_key("ops", "admin")
    assert user != new_key("alice", "user")[0]
    keys = tmp_path / "keys"
    keys.write_text(user_line + admin_line)
    assert user not in keys.read_text()
    server = start_server(api_keys=str(keys))

    def bearer(key):
        return {"metadata": [("authorization", f"Bearer {key}")]}

    stub = server.inference
    calls = [(stub.Generate, request(text="a", max_new_tokens=1)),
             (stub.GenerateStream, request(text="a", max_new_tokens=1)),
             (stub.Tokenize, pb.TokenizeRequest(text="a")),
             (stub.Detokenize, pb.DetokenizeRequest(ids=[5])),
             (server.control.GetServerInfo, control_pb2.GetServerInfoRequest()),
             (server.control.ListModels, control_pb2.ListModelsRequest()),
             (server.control.Drain, control_pb2.DrainRequest())]
    for call, message in calls:
        for options in ({}, bearer(user + "x"), bearer(""), bearer(user[:-1])):
            with pytest.raises(grpc.RpcError) as caught:
                answer = call(message, timeout=30, **options)
                list(answer)  # of a stream
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert user not in caught.value.details()
    for call, message in calls[:1] + calls[2:6]:
        call(message, timeout=30, **bearer(user))
    assert list(stub.GenerateStream(calls[1][1], timeout=30, **bearer(user)))
    with pytest.raises(grpc.RpcError) as caught:
        server.control.Drain(control_pb2.DrainRequest(), timeout=30, **bearer(user))
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    # Probes need no key.
    assert cli(server, "health").stdout == "SERVING\n"
    assert cli(server, "models").returncode == 1
    assert cli(server, "models", FLA_API_KEY=user).returncode == 0
    key_file = tmp_path / "key"
    key_file.write_text(user + "\n")
    assert cli(server, "models", "--api-key-file", key_file).returncode == 0
    assert cli(server, "drain", FLA_API_KEY=admin).returncode == 0
    assert server.process.wait(30) == 0
    assert user not in server.log.read_text()


def test_drain_lets_running_requests_finish(start_server):
    server = start_server(drain_timeout_seconds=600)  # for sanitizers on busy machines
    stream = server.inference.GenerateStream(
        request(text="Once", ignore_eos=True, max_new_tokens=1000, temperature=0))
    next(stream)
    for _ in range(3):  # more than once is no second signal
        answer = server.control.Drain(control_pb2.DrainRequest(), timeout=10)
        assert answer.timeout_seconds == 600
    messages = list(stream)
    assert messages[-1].usage.completion_tokens == 1000
    assert server.process.wait(30) == 0


def test_huge_metadata_are_refused(server):
    with grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            control_pb2_grpc.ControlStub(channel).GetServerInfo(
                control_pb2.GetServerInfoRequest(), timeout=30, metadata=[("x-big", "a" * 100000)])
        assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED,
                                       grpc.StatusCode.UNAVAILABLE)
    assert server.generate(text="a", max_new_tokens=1).usage.completion_tokens == 1


def test_an_old_connection_is_closed_and_its_stream_goes_on(start_server):
    server = start_server(connections={"max_age_seconds": 0.5})
    stream = server.inference.GenerateStream(
        request(text="Once", ignore_eos=True, max_new_tokens=1500, temperature=0))
    assert list(stream)[-1].usage.completion_tokens == 1500
    assert server.generate(text="a", max_new_tokens=1)


def test_an_open_door_is_warned_of(tmp_path):
    config = demo_config()
    del config["listen"]
    file, port = tmp_path / "config.json", tmp_path / "port"
    file.write_text(json.dumps(config | {"listen": "0.0.0.0:0"}))
    process = subprocess.Popen([SERVER, "--config", file, "--port-file", port],
                               stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if "reachable from other machines without TLS and without API keys" in line:
                break
        else:
            pytest.fail("no warning")
    finally:
        process.terminate()
        process.communicate(timeout=60)
