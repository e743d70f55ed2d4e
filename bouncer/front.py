"""Join the pooler and the HA front: health ports, PROXY headers, SHOW HAPROXY.

Stands beside the command line, above both: neither the pooler nor `ha` knows
the other. HAProxy's statistics cost a large import, so they are loaded only
when a stats socket is configured, before the process drops its privileges.
"""

from __future__ import annotations

import asyncio
import importlib
from functools import partial
from typing import Any

from admin import metrics
from bouncer import log
from bouncer.errors import StartError
from bouncer.extras import lacks
from ha import proxy_protocol
from ha.errors import HAProxyError
from ha.health import HealthServer
from ha.view import AppView


class Front:
    """What the section [pybouncer] asks for, around one app."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.health: HealthServer | None = None
        app.proxy = proxy_protocol
        app.trust_proxies()
        app.on_settings = self.reload
        if app.settings.haproxy_sockets:
            self.watch_haproxy()

    def watch_haproxy(self) -> None:
        try:
            watch = importlib.import_module("ha.watch")
        except ModuleNotFoundError as missing:
            told = lacks("haproxy_sockets", str(missing.name), "ha")
            raise StartError(told) from None
        try:
            self.app.haproxy = watch.HAProxyWatch.from_setting(
                self.app.settings.haproxy_sockets
            )
        except (HAProxyError, ValueError) as problem:
            raise StartError(f"haproxy_sockets: {problem}") from None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the health ports; the loop does not run yet."""
        settings = self.app.settings
        if not (settings.health_listen or settings.agent_listen):
            return
        self.health = HealthServer(
            AppView(self.app), settings, partial(metrics.render_gently, self.app)
        )
        try:
            loop.run_until_complete(self.health.start())
        except (OSError, ValueError) as problem:
            raise StartError(f"cannot serve health: {problem}") from None

    def reload(self, settings: Any) -> None:
        """The settings have changed; addresses need a restart, the rest does not."""
        if self.health is not None:
            self.health.reload(settings)
        elif settings.health_listen or settings.agent_listen:
            log.warning("health_listen and agent_listen take effect at a restart")

    def close(self) -> None:
        """The very last thing: until then health says "draining"."""
        if self.health is not None:
            self.health.close()
