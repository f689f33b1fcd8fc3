#!/usr/bin/env python3
"""Builds an image of the Dockerfile and tries it, on a machine that has debootstrap but no Docker.

    sudo docker/without_docker.py cpu|cuda FOLDER [COMPILER_CACHE]

Every stage is a root in FOLDER, a new one: FROM is a bare Debian or Ubuntu (NVIDIA's images: with
what they bring, from this machine's /usr/local/cuda), RUN runs in it, COPY takes what git tracks.
Then the image starts as in docker-compose.yml: as its user, on a read-only root, without
capabilities. Its health check must pass, its client must get tokens, and its stop signal must end
it with status 0. Needs 8 GB and the ports of config/server.json.
"""
import json
import os
import pathlib
import re
import shlex
import signal
import string
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
BASES = {  # part of an image's name: suite, mirror, components
    "debian:bookworm": ("bookworm", "http://deb.debian.org/debian", "main"),
    "ubuntu24.04": ("noble", "http://archive.ubuntu.com/ubuntu", "main,universe"),
}
SETTINGS = {"ENTRYPOINT", "CMD", "HEALTHCHECK", "STOPSIGNAL", "VOLUME", "EXPOSE"}
INSTRUCTIONS = SETTINGS | {"RUN", "COPY", "WORKDIR", "ENV", "USER"}
CUDA = pathlib.Path("/usr/local/cuda")


def run(*command):
    print("+", shlex.join(map(str, command)), flush=True)
    subprocess.run([str(part) for part in command], check=True)


class Stage:
    """A root, and how a process in it starts."""

    def __init__(self, image, root, ccache):
        self.root, self.directory, self.user, self.settings = root, "/", "0:0", {}
        self.environment = {"HOME": "/root", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        self.environment |= {name: value for name, value in os.environ.items()
                             if name.lower() in ("http_proxy", "https_proxy", "no_proxy", "lang")}
        suite, mirror, components = next(base for part, base in BASES.items() if part in image)
        base = root.parent / f"base-{suite}"
        if not base.exists():
            run("debootstrap", "--variant=minbase", f"--components={components}", suite, base,
                mirror)
            (base / "etc/apt/sources.list").write_text("".join(
                f"deb {mirror} {part} {components.replace(',', ' ')}\n"
                for part in (suite, f"{suite}-updates")))
        run("cp", "-a", base, root)
        run("mount", "--rbind", "/dev", root / "dev")
        run("mount", "-t", "proc", "proc", root / "proc")
        if ccache:
            run("mount", "--bind", ccache, self.folder("/var/cache/ccache"))
            self.environment |= {"CCACHE_DIR": "/var/cache/ccache", "CCACHE_BASEDIR": "/src"}
        if "-devel-" in image:
            run("mount", "--bind", CUDA.resolve(), self.folder(CUDA))
            self.environment["PATH"] = f"{CUDA}/bin:" + self.environment["PATH"]
        elif "-runtime-" in image:
            run("cp", *(CUDA / "lib64").glob("libcublas*.so.*"), self.folder(CUDA / "lib64"))
            (root / "etc/ld.so.conf.d/cuda.conf").write_text(f"{CUDA}/lib64\n")
            run("chroot", root, "ldconfig")

    def folder(self, path):
        """A folder of the root as this machine sees it, made if it is missing."""
        folder = self.root / str(path).lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def command(self, *command):
        """The command line that runs a command of the root as the image's user."""
        user, group = self.user.split(":")
        unprivileged = ["--no-new-privs", "--bounding-set=-all"] if user != "0" else []
        return ["chroot", str(self.root), "setpriv", f"--reuid={user}", f"--regid={group}",
                "--clear-groups", *unprivileged,
                "env", "-i", *(f"{name}={value}" for name, value in self.environment.items()),
                "sh", "-c", 'cd "$0" && exec "$@"', self.directory, *command]

    def copy(self, source, destination):
        target = pathlib.Path(self.directory, destination)
        if source.is_dir():
            run("cp", "-r", "--preserve=mode", f"{source}/.", self.folder(target))
        else:
            run("cp", "--preserve=mode", source, self.folder(target.parent) / target.name)

    def take(self, word, rest, context, stages):
        if word == "RUN":
            run(*self.command("sh", "-c", rest))
        elif word == "COPY":
            *options, source, destination = rest.split()
            tree = stages[options[0].removeprefix("--from=")].root if options else context
            self.copy(tree / source.lstrip("/"), destination)
        elif word == "WORKDIR":
            self.directory = rest
            self.folder(rest)
        elif word == "ENV":
            text = string.Template(rest).safe_substitute(self.environment)
            self.environment |= dict(pair.split("=", 1) for pair in shlex.split(text))
        elif word == "USER":
            self.user = rest
        elif word in SETTINGS:
            self.settings[word] = rest
        else:
            sys.exit(f"no rule for {word}")


def parse(dockerfile):
    """{stage: (image, [(instruction, its text)])}"""
    text = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE).replace("\\\n", "")
    stages, arguments = {}, {}
    for word, rest in (line.split(None, 1) for line in text.splitlines() if line.strip()):
        if word == "FROM":
            image, name = string.Template(rest).substitute(arguments).split(" AS ")
            stages[name] = (image, [])
        elif stages:
            stages[name][1].append((word, rest))
        else:
            arguments |= [rest.split("=", 1)]  # ARG
    return stages


def build(target, folder, ccache=None):
    """The stage of that name, made after those that it copies from."""
    context = folder / "context"
    run("git", "-C", REPOSITORY, "checkout-index", "--all", f"--prefix={context}/")
    parsed, stages = parse((REPOSITORY / "docker/Dockerfile").read_text()), {}
    wanted = re.findall(r"--from=(\S+)", " ".join(rest for _, rest in parsed[target][1])) + [target]
    for name in wanted:
        image, lines = parsed[name]
        print(f"== {name}, from {image}", flush=True)
        stages[name] = Stage(image, folder / name, ccache)
        for word, rest in lines:
            stages[name].take(word, rest, context, stages)
    return stages[target]


def attempt(image):
    """Starts the image, waits until it is healthy, asks it for tokens and stops it."""
    run("mount", "--rbind", "-o", "ro", image.root, image.root)
    program = json.loads(image.settings["ENTRYPOINT"]) + json.loads(image.settings["CMD"])
    health = image.command(*json.loads(image.settings["HEALTHCHECK"].partition("CMD ")[2]))
    server = subprocess.Popen(image.command(*program))
    deadline = time.monotonic() + 60
    while subprocess.run(health, capture_output=True).returncode != 0:
        assert server.poll() is None and time.monotonic() < deadline, "the server is not healthy"
        time.sleep(0.2)
    run(*image.command("fla-cli", "generate", "--stream", "--stats", "--max-new-tokens", "40",
                       "--prompt", "Once upon a time"))
    server.send_signal(signal.Signals[image.settings["STOPSIGNAL"]])
    assert server.wait(60) == 0, f"the server ended with {server.returncode}"


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    if os.environ.get("FLA_OWN_MOUNTS") is None:  # mounts that end with this process
        os.environ["FLA_OWN_MOUNTS"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation=private", sys.executable,
                              *sys.argv])
    target, folder, *ccache = sys.argv[1:]
    attempt(build(target, pathlib.Path(folder).resolve(), *ccache))
    print("== the image works")
