"""What Odoo must be able to do, one function for each row of the table.

A row takes a Scene, does what users do, and raises Wrong or whatever went wrong on the
way. It waits for conditions; the seconds are only bounds for what never happens.
"""

import base64
import io
import re
import subprocess
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from typing import Any

from tests.odoo.scene import ADMIN, LEADS, USERS, Scene
from tests.odoo.stage import DATABASE
from tests.odoo.talk import Bell, Browser, OdooError, Program
from tests.support.ground import wait_for

MODULE = "fleet"
PROMPT = 60.0  # seconds in which a notification comes, or never
# The cron worker looks by itself once a minute: several in a row were NOTIFYs.
CRON_TIMES, CRON_POLL = 3, 60.0
BACKUPS, BACKUPS_AT_ONCE, READERS = 6, 2, 3


class Wrong(Exception):
    """A row that is not as it must be."""


# Users


def round_trip(call: Callable[..., Any], name: str) -> None:
    """Create, read, write and unlink a partner."""
    made = call("res.partner", "create", [{"name": name}])[0]
    if call("res.partner", "read", [made], ["name"])[0]["name"] != name:
        raise Wrong(f"{name}: something else was read")
    call("res.partner", "write", [made], {"name": f"{name} again"})
    if call("res.partner", "search", [["name", "=", f"{name} again"]]) != [made]:
        raise Wrong(f"{name}: what was written was not found")
    call("res.partner", "unlink", [made])
    if call("res.partner", "search", [["id", "=", made]]):
        raise Wrong(f"{name}: what was unlinked was found")


def one_user(scene: Scene) -> None:
    """Log in, create, read, write, unlink: in a browser, and by a program's XML-RPC."""
    round_trip(scene.browser(ADMIN, ADMIN).call, "By a browser")
    program = Program(scene.odoo.http, DATABASE, ADMIN, ADMIN)
    round_trip(program.call, "By a program")


def users_at_once(scene: Scene) -> None:
    """16 users at once: the same, five times each."""

    def works(number: int) -> None:
        browser = scene.user(number)
        for turn in range(5):
            round_trip(browser.call, f"User {number}, turn {turn}")

    with ThreadPoolExecutor(USERS) as pool:
        list(pool.map(works, range(USERS)))


# The bus and cron


def setting_rings(scene: Scene) -> float:
    """Bus notification: a user's setting is changed, another window of his hears of it.

    Odoo's gevent process begins to LISTEN when the first window opens, and loses what
    is told before: the first notification is repeated until it is heard.
    """
    browser = scene.user(0)
    with scene.bell(browser) as bell:
        if not wait_for(lambda: ring(bell, browser, 5.0) is not None, PROMPT):
            raise Wrong("no notification ever came")
        took = ring(bell, browser, PROMPT)
    if took is None:
        raise Wrong("a notification did not come")
    return took


def ring(bell: Bell, browser: Browser, seconds: float) -> float | None:
    """Change a setting; how long it took until its notification came, if it did."""
    name, call = "is_discuss_sidebar_category_chat_open", browser.call
    mine = [["user_id", "=", browser.info["uid"]]]
    if not (ids := call("res.users.settings", "search", mine)):
        ids = call("res.users.settings", "create", [{"user_id": browser.info["uid"]}])
    value = not call("res.users.settings", "read", ids, [name])[0][name]
    begun = time.monotonic()
    call(
        "res.users.settings", "set_res_users_settings", ids, new_settings={name: value}
    )
    try:
        bell.wait_for("res.users.settings", f'"{name}": {str(value).lower()}', seconds)
    except TimeoutError:
        return None
    return time.monotonic() - begun


def message_rings(scene: Scene) -> float:
    """Discuss message over websocket: one writes, all other members hear."""
    with ExitStack() as open_bells:
        bells = [
            open_bells.enter_context(scene.bell(scene.user(n))) for n in range(1, 5)
        ]
        text, writer = f"a message of {time.time()}", scene.user(0)
        begun = time.monotonic()
        writer.call(
            "discuss.channel",
            "message_post",
            [scene.channel],
            body=text,
            message_type="comment",
            subtype_xmlid="mail.mt_comment",
        )
        for bell in bells:
            bell.wait_for("discuss.channel/new_message", text, PROMPT)
        return time.monotonic() - begun


def cron_by_notify(scene: Scene) -> float:
    """Cron triggered by NOTIFY: a job that is triggered runs; how long at the most.

    A first one is not counted: the cron process loads the database for it.
    """
    run_job(scene)
    begun = time.monotonic()
    longest = max(run_job(scene) for _ in range(CRON_TIMES))
    took = time.monotonic() - begun
    if took > CRON_POLL * (CRON_TIMES - 1):
        raise Wrong(f"{CRON_TIMES} jobs took {took:.0f} s: the cron worker has polled")
    return longest


def run_job(scene: Scene) -> float:
    """Trigger the job that leaves a trace; the seconds until the trace is there."""
    trace, call = f"trace of {time.time()}", scene.admin.call
    call("ir.config_parameter", "set_param", "trace", trace)
    begun = time.monotonic()
    call("ir.actions.server", "run", [scene.server_action])
    if not wait_for(lambda: call("res.partner", "search", [["name", "=", trace]]), 300):
        raise Wrong("the job never ran")
    return time.monotonic() - begun


# The database manager


def usable(scene: Scene, database: str, password: str = ADMIN) -> None:
    """One can log in to *database* and work there, and only if the manager lists it."""
    if database not in scene.manager.names():
        raise Wrong(f"{database} is not listed")
    round_trip(scene.browser(ADMIN, password, database).call, f"In {database}")


def gone(scene: Scene, database: str) -> None:
    """*database* does not exist any more, for anybody."""
    if database in scene.manager.names() or database in scene.stage.cluster.databases():
        raise Wrong(f"{database} is still there")
    try:
        scene.browser(ADMIN, ADMIN, database)
    except OdooError:
        return
    raise Wrong(f"one can still log in to {database}")


def create(scene: Scene) -> None:
    """Manager: create a database."""
    scene.manager.do("create_database", "created", False, "en_US", "new", ADMIN)
    usable(scene, "created", "new")


def duplicate(scene: Scene) -> None:
    """Manager: duplicate the database that everybody uses."""
    scene.manager.do("duplicate_database", DATABASE, "copied")
    usable(scene, "copied")
    usable(scene, DATABASE)


def rename(scene: Scene) -> None:
    """Manager: rename a database that is in use."""
    usable(scene, "copied")
    scene.manager.do("rename", "copied", "renamed")
    usable(scene, "renamed")
    gone(scene, "copied")


def drop(scene: Scene) -> None:
    """Manager: drop databases that are in use."""
    for name in ("renamed", "created"):
        scene.manager.do("drop", name)
        gone(scene, name)


def restore(scene: Scene) -> None:
    """Manager: restore under a new name."""
    scene.dump = scene.manager.do("dump", DATABASE, "zip")
    scene.manager.do("restore", "restored", scene.dump, True)
    usable(scene, "restored")
    compare(scene, "restored")


def restore_again(scene: Scene) -> None:
    """Manager: drop, restore under the same name."""
    usable(scene, "restored")
    scene.manager.do("drop", "restored")
    scene.manager.do("restore", "restored", scene.dump, True)
    usable(scene, "restored")
    compare(scene, "restored")
    scene.manager.do("drop", "restored")


def compare(scene: Scene, database: str) -> None:
    """*database* is what it was restored from: as many records, and the same schema."""
    for model in ("res.partner", "crm.lead", "ir.model.fields", "ir.ui.view"):
        counts = [
            scene.browser(ADMIN, ADMIN, name).call(model, "search_count", [])
            for name in (DATABASE, database)
        ]
        if counts[0] != counts[1]:
            raise Wrong(
                f"{model}: {counts[0]} in {DATABASE}, {counts[1]} in {database}"
            )
    # An object that could not be restored is told to nobody. Some are not spelled the
    # same when they have been restored, without a pooler neither.
    one, other = (
        direct_dump(scene, name, "--schema-only").keys()
        for name in (DATABASE, database)
    )
    if one ^ other:
        raise Wrong(f"not everything was restored: {sorted(one ^ other)[:3]}")


# Load


class Load:
    """Users who go on until they are told to stop; what was refused to them."""

    def __init__(self, work: Callable[[int, int], None], users: int) -> None:
        self.work, self.users = work, users
        self.done, self.failures = 0, Counter[str]()
        self._enough, self._lock = threading.Event(), threading.Lock()

    @contextmanager
    def going_on(self) -> Iterator["Load"]:
        """Let them work meanwhile."""
        threads = [
            threading.Thread(target=self._go, args=(n,)) for n in range(self.users)
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._enough.set()
            for thread in threads:
                thread.join()

    def _go(self, number: int) -> None:
        turn = 0
        while not self._enough.is_set():
            try:
                self.work(number, turn)
            except (OdooError, OSError, HTTPException, Wrong) as error:
                with self._lock:
                    self.failures[str(error)[:300]] += 1
            else:
                with self._lock:
                    self.done += 1
            turn += 1

    def judge(self) -> None:
        """Wrong if anything was refused, or nothing done."""
        if self.failures:
            told = "; ".join(
                f"{n} x {text}" for text, n in self.failures.most_common(3)
            )
            raise Wrong(f"{self.failures.total()} of {self.done} users' turns: {told}")
        if not self.done:
            raise Wrong("the users got nothing done")


def read_reports(scene: Scene) -> Callable[[int, int], None]:
    """What users do who look at reports: they group, they list, they change windows."""
    browsers = [scene.user(n) for n in range(READERS)]

    def work(number: int, _turn: int) -> None:
        call = browsers[number].call
        grouped = call(
            "crm.lead",
            "formatted_read_group",
            [],
            groupby=["stage_id", "user_id"],
            aggregates=["__count", "expected_revenue:sum"],
        )
        if sum(row["__count"] for row in grouped) != LEADS:
            raise Wrong("a report has other numbers")
        call(
            "crm.lead", "search_read", [], ["name", "partner_id", "stage_id"], limit=80
        )
        call("crm.activity.report", "search_count", [])
        call("crm.lead", "get_views", [[False, "pivot"], [False, "graph"]])

    return work


def backups(scene: Scene) -> None:
    """Backups while users read reports; each is what pg_dump writes directly."""
    before = direct_dump(scene, DATABASE)

    def backup(_number: int) -> dict[str, str]:
        data = base64.b64decode(scene.manager.do("dump", DATABASE, "zip"))
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            return parts(file.read("dump.sql").decode())

    load = Load(read_reports(scene), READERS)
    with load.going_on(), ThreadPoolExecutor(BACKUPS_AT_ONCE) as pool:
        dumps = list(pool.map(backup, range(BACKUPS)))
    load.judge()
    after = direct_dump(scene, DATABASE)
    # What nobody wrote meanwhile must be the same in all of them.
    still = {name for name in before if before[name] == after.get(name)}
    for dump in dumps:
        if dump.keys() != before.keys():
            raise Wrong(f"a backup differs: {sorted(dump.keys() ^ before.keys())[:3]}")
        if differs := [name for name in still if dump[name] != before[name]]:
            raise Wrong(f"a backup differs in {differs[:3]}")


def direct_dump(scene: Scene, database: str, *options: str) -> dict[str, str]:
    """What pg_dump writes without a pooler."""
    cluster = scene.stage.cluster
    done = subprocess.run(
        [
            *(cluster.bindir / "pg_dump", "--no-owner", "-h", "127.0.0.1", *options),
            *("-p", str(cluster.port), "-U", "postgres", database),
        ],
        capture_output=True,
        text=True,
        check=True,
        **scene.stage.as_user,
    )
    return parts(done.stdout)


def parts(dump: str) -> dict[str, str]:
    """The parts of a dump: rows by their table, and everything else by its title."""
    if "-- PostgreSQL database dump complete" not in dump:
        raise Wrong("a backup is not complete")
    found = {}
    for text in re.split(r"^(?=-- (?:Data for )?Name: )", dump, flags=re.M):
        title, _, body = text.partition("\n")
        # Each dump has a key of its own, rows come in the order in which they lie, and
        # before 18 names may lack their schema: it then begins with a search_path.
        body = re.sub(r"^\\(un)?restrict .*$", "", body, flags=re.M)
        body = re.sub(r"^SELECT .*\('search_path', .*$", "", body, flags=re.M)
        body = body.replace("public.", "")
        found[title] = "\n".join(sorted(body.splitlines()))
    return found


def modules(scene: Scene) -> None:
    """A module is installed and upgraded, under load; then users find its menu."""
    call = scene.admin.call
    (module,) = call("ir.module.module", "search", [["name", "=", MODULE]])
    browsers = [scene.user(n) for n in range(READERS)]
    load = Load(lambda n, turn: round_trip(browsers[n].call, f"{n} {turn}"), READERS)
    with load.going_on():
        for button in ("button_immediate_install", "button_immediate_upgrade"):
            call("ir.module.module", button, [module])
            call("fleet.vehicle.model.brand", "search_count", [])
    load.judge()
    setting_rings(scene)


def renewed(scene: Scene) -> None:
    """Workers are renewed, under load; then bus and cron go on."""
    browsers = [scene.user(n) for n in range(READERS)]
    load = Load(lambda n, turn: round_trip(browsers[n].call, f"{n} {turn}"), READERS)
    with load.going_on():
        scene.odoo.renew()
    load.judge()
    setting_rings(scene)
    cron_by_notify(scene)


def left_over(scene: Scene) -> None:
    """Afterwards: no client waits, and each process that LISTENs has a server."""
    setting_rings(scene)
    pooler, listeners = scene.pooler, 1 + scene.odoo.cron_processes
    if pooler is not None:
        wait_for(lambda: not pooler.problems(listeners), PROMPT)
        if problems := pooler.problems(listeners):
            raise Wrong("; ".join(problems[:3]))


# What a row returns is what its seconds are, if not those of all that it did.
ROWS: dict[str, Callable[[Scene], float | None]] = {
    "log in, create, read, write, unlink": one_user,
    "16 users at once": users_at_once,
    "bus notification over websocket": setting_rings,
    "Discuss message over websocket": message_rings,
    "cron triggered by NOTIFY": cron_by_notify,
    "manager: create": create,
    "manager: duplicate": duplicate,
    "manager: rename": rename,
    "manager: drop": drop,
    "manager: restore under a new name": restore,
    "manager: drop, restore under the same name": restore_again,
    "backups while users read reports": backups,
    "module installed and upgraded, under load": modules,
    "workers renewed, under load": renewed,
    "nobody waits afterwards": left_over,
}
