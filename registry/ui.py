"""MLflow's own pages over the project's database, on this machine only."""

import os
import socket
import sys
from typing import NoReturn

from grammar.errors import StudyError

HOST = "127.0.0.1"


def serve(uri: str, port: int) -> NoReturn:
    """Become MLflow's server. Raises: StudyError when the port is in use."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise StudyError(
                f"port {port} is in use", hint=f"einspace ui --port {port + 1}"
            ) from None
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    # The server takes this process over, so that a signal to it ends the server.
    os.execve(sys.executable, command, environment)
