"""A primary and a standby that streams from it, and what Patroni would say of them."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
from pathlib import Path
from typing import Any

import psycopg

from tests.support.ground import Ground, Postgres, Unusable, wait_for


class Standby:
    """A streaming copy of a primary, made by pg_basebackup."""

    def __init__(self, ground: Ground, primary: Postgres, directory: Path) -> None:
        self.ground, self.primary, self.directory = ground, primary, directory
        self.port = ground.free_port()
        self.bindir, self.identity = primary.bindir, primary.identity
        self.data = directory / "data"
        self.process: subprocess.Popen[bytes] | None = None
        self.identity.own(directory)
        self.call(
            "pg_basebackup", "-D", self.data, "-R", "-X", "stream", "-c", "fast",
            "-d", f"host=127.0.0.1 port={primary.port} user=u_repl",
        )  # fmt: skip
        with open(self.data / "postgresql.conf", "a") as conf:
            conf.write(f"port = {self.port}\n")
            conf.write(f"unix_socket_directories = '{directory}'\n")
            conf.write("hot_standby = on\nwal_receiver_status_interval = 1s\n")
        self.start()

    def call(self, program: str, *arguments: Any) -> None:
        """Run one of PostgreSQL's programs as its user."""
        done = subprocess.run(
            [self.bindir / program, *arguments],
            cwd=self.directory, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, **self.identity.process_options(),
        )  # fmt: skip
        if done.returncode:
            raise Unusable(f"{program}: {done.stderr}")

    def start(self) -> None:
        """Start it and wait until it answers."""
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                [self.bindir / "postgres", "-D", self.data],
                stdout=log, stderr=log, cwd=self.directory,
                stdin=subprocess.DEVNULL, start_new_session=True,
                **self.identity.process_options(),
            )  # fmt: skip
        if not wait_for(lambda: self.role() is not None, 30):
            raise Unusable((self.directory / "log").read_text()[-2000:])

    def role(self) -> str | None:
        """`primary` or `standby`; None when it does not answer."""
        return role_of(self.port)

    def promote(self) -> None:
        """Make it a primary."""
        with connect(self.port) as link:
            link.execute("select pg_promote(true, 30)")

    def pause_replay(self, pause: bool) -> None:
        """Let it fall behind, or catch up."""
        with connect(self.port) as link:
            word = "pause" if pause else "resume"
            link.execute(f"select pg_wal_replay_{word}()")

    def stop(self) -> None:
        """Stop it, breaking all connections."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(2)
            self.process.wait(20)


def connect(port: int, database: str = "postgres") -> psycopg.Connection[Any]:
    """A superuser's connection."""
    return psycopg.connect(
        host="127.0.0.1", port=port, dbname=database, user="postgres",
        autocommit=True, connect_timeout=2,
    )  # fmt: skip


def role_of(port: int) -> str | None:
    """Ask a server for its role; None when it does not answer."""
    try:
        with connect(port) as link:
            row = link.execute("select pg_is_in_recovery()").fetchone()
    except psycopg.Error:
        return None
    return "standby" if row and row[0] else "primary"


class Rest:
    """Patroni's REST port for one server: 200 or 503 by the server's true role."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.postgres_port = port
        rest = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                path = self.path.partition("?")[0]
                role = role_of(rest.postgres_port)
                wanted = {
                    "/primary": ("primary",),
                    "/replica": ("standby",),
                    "/read-only": ("primary", "standby"),
                }.get(path, ())
                body = json.dumps({"role": role}).encode()
                code = 200 if role in wanted else 503
                head = f"HTTP/1.0 {code} X\r\nContent-Length: {len(body)}\r\n\r\n"
                self.wfile.write(head.encode() + body)

            do_GET = do_OPTIONS = do_HEAD = answer

            def log_message(self, *arguments: Any) -> None:
                """Checks are silent."""

            def handle(self) -> None:
                try:
                    super().handle()
                except ConnectionError:
                    pass

        self.server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self.server.daemon_threads = True
        self.port = int(self.server.server_address[1])
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Stop answering."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
