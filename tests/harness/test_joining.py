"""Joining a cluster: addresses that are none, that nobody answers, or where this machine is not let in."""

import os
import socket
import subprocess
import warnings

import pytest

pytest.importorskip("ray")

from esft_bench.harness.execute.cluster import connect
from esft_bench.spec.errors import UserError


@pytest.mark.parametrize("where", ["ray://", "ray://host", "ray://:1", "ray://host:port", "ray://host:²"])
def test_an_address_that_is_none_is_refused(where):
    with pytest.raises(UserError, match="ray://HOST:PORT"):
        connect._check_answer(where)


def test_an_address_that_nobody_answers_is_refused_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=f"--on ray://127.0.0.1:{port}: no Ray cluster answers there"):
        connect._check_answer(f"ray://127.0.0.1:{port}")


@pytest.mark.parametrize("host", ["a" * 70, "..", "[::1", "127.0.0.1:99999999", "a b"])
def test_an_address_that_cannot_be_is_one_that_nobody_answers(host):
    with pytest.raises(UserError, match="no Ray cluster answers there"):
        connect._check_answer(f"ray://{host}:99999")


def test_an_address_in_the_environment_may_be_one_of_rays_client(monkeypatch):
    asked: list[str] = []

    def refuses(where: str) -> None:
        asked.append(where)
        raise UserError("no")

    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    monkeypatch.setattr(connect, "_check_answer", refuses)
    with pytest.raises(UserError), connect.connected("ray", 1, 0):
        pass
    assert asked == ["ray://head:10001"]


def test_a_machine_that_is_in_no_cluster_says_so_within_bounds(monkeypatch):
    def hangs(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(subprocess, "run", hangs)
    with pytest.raises(UserError, match=r"--on ray, address 10.0.0.1:6379: no Ray cluster answers there"):
        connect._check_answer("ray")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            "Traceback (most recent call last):\n  …\nray.exceptions.AuthenticationError: RPC error: InvalidAuthToken: "
            "Authentication token is missing or incorrect. Ensure that the token for the cluster is available in a …",
            "--on ray: that Ray cluster wants another token than this machine has: put the cluster's into "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token.",
        ),
        (
            "Traceback (most recent call last):\n  …\nRuntimeError: Ray version mismatch: cluster has Ray version "
            "2.50.0 but local Ray version is 2.60.0\n",
            "--on ray: Ray version mismatch: cluster has Ray version 2.50.0 but local Ray version is 2.60.0",
        ),
        ("", "--on ray: no Ray cluster answers there; start one with `ray start --head`, or leave --on out."),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_one_sentence_which_says_why(monkeypatch, said, why):
    """What Ray 2.60 says, as its command for it was seen to say it."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(subprocess, "run", lambda command, **told: subprocess.CompletedProcess(command, 1, "", said))
    with pytest.raises(UserError) as refused:
        connect._check_answer("ray")
    assert str(refused.value) == why


@pytest.mark.parametrize(("wants", "has"), [(True, True), (False, True), (False, False)])
def test_a_token_is_used_where_the_cluster_wants_one_and_only_there(monkeypatch, wants, has):
    def says(command, env, **told):
        fits = (env["RAY_AUTH_MODE"] == "token") == wants
        return subprocess.CompletedProcess(command, not fits, "", "AuthenticationError")

    monkeypatch.setenv("RAY_AUTH_MODE", "")  # so that it is as it was in the end
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setattr(connect, "_has_token", lambda: has)
    monkeypatch.setattr(subprocess, "run", says)
    connect._check_answer("ray")
    assert os.environ["RAY_AUTH_MODE"] == ("token" if wants else "disabled")


def test_a_port_that_answers_and_takes_no_client_of_ray_is_one_sentence(monkeypatch, recwarn):
    def times_out(*address, **told):
        warnings.warn("Ray Client connection timed out.", UserWarning, stacklevel=1)
        raise ConnectionError("ray client connection timeout")  # as with a token that is not the cluster's

    monkeypatch.setattr("ray.init", times_out)
    with socket.create_server(("127.0.0.1", 0)) as other:
        where = f"ray://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UserError, match=f"--on {where}: what answers there lets no client of Ray in"):
            connect._join(where)
    assert not recwarn


@pytest.mark.parametrize("fails", [2, 3])
def test_a_server_for_a_client_that_ray_could_not_start_is_asked_for_again(monkeypatch, fails):
    tries = []

    def fails_at_first(address, **told):
        tries.append(address)
        if len(tries) <= fails:
            raise ConnectionAbortedError("Initialization failure from server: Starting Ray client server failed.")

    monkeypatch.setattr("ray.init", fails_at_first)
    if fails < connect.TRIES:
        connect.init("ray://head:10001")
    else:
        with pytest.raises(ConnectionAbortedError):
            connect.init("ray://head:10001")
    assert tries == ["ray://head:10001"] * 3


@pytest.mark.parametrize("by", ["variable", "file", None])
def test_a_token_that_this_machine_has_is_used_as_ray_start_uses_it(monkeypatch, tmp_path, by):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    if by == "variable":
        monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    if by == "file":
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("secret")
    assert connect._has_token() is (by is not None)
