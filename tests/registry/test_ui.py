"""The pages are served on this machine only, and a port in use is a fault with a way out."""

import socket

import pytest

from grammar.errors import StudyError
from registry.ui import HOST, serve


def test_a_port_in_use_is_refused_with_another_one(tmp_path: object) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StudyError, match=f"port {port} is in use") as caught:
            serve(f"sqlite:///{tmp_path}/mlflow.db", port)
    assert caught.value.hint == f"einspace ui --port {port + 1}"


def test_only_this_machine_is_served() -> None:
    assert HOST == "127.0.0.1"
