"""One set-up as the rows find it: Odoo that runs, users, a channel, a cron job."""

from dataclasses import dataclass, field

from tests.odoo.stage import DATABASE, Middle, Odoo, Stage
from tests.odoo.talk import Bell, Browser, Manager

ADMIN = "admin"
USERS, USER_PASSWORD = 16, "a user's own password"
LEADS = 200
GROUPS = (
    ("base", "group_user"),
    ("base", "group_partner_manager"),
    ("sales_team", "group_sale_manager"),
)
# Server actions may use what Odoo gives them, and no other names.
LEAVE_A_TRACE = """
name = env['ir.config_parameter'].get_param('trace')
env['res.partner'].create({'name': name})
"""
TRIGGER = "env['ir.cron'].browse(%d)._trigger()"


@dataclass
class Scene:
    """One set-up: Odoo as it runs, and what earlier rows have left."""

    stage: Stage
    odoo: Odoo
    pooler: Middle | None
    admin: Browser = field(init=False)
    manager: Manager = field(init=False)
    channel: int = 0
    server_action: int = 0
    dump: str = ""

    def __post_init__(self) -> None:
        self.admin = self.browser(ADMIN, ADMIN)
        self.manager = Manager(self.odoo.http, self.odoo.master)

    def browser(self, user: str, password: str, database: str = DATABASE) -> Browser:
        """A new session."""
        return Browser(self.odoo.http, database).log_in(user, password)

    def user(self, number: int) -> Browser:
        """A new session of one of the users."""
        return self.browser(f"user{number}", USER_PASSWORD)

    def bell(self, browser: Browser) -> Bell:
        """That session's websocket."""
        return Bell(self.odoo.gevent, browser)


def furnish(scene: Scene) -> None:
    """Make what the rows need."""
    add_people(scene)
    add_job(scene)


def add_people(scene: Scene) -> None:
    """Users, a channel with all of them, and leads that they have reports on."""
    call = scene.admin.call
    groups = [call("ir.model.data", "check_object_reference", *name) for name in GROUPS]
    user = {"password": USER_PASSWORD, "group_ids": [(4, group) for _, group in groups]}
    users = [{"name": f"User {n}", "login": f"user{n}", **user} for n in range(USERS)]
    call("res.users", "create", users)
    wanted = [["login", "like", "user%"]]
    rows = call("res.users", "search_read", wanted, ["partner_id"])
    partners = [row["partner_id"][0] for row in rows]
    channel = {"name": "All", "channel_type": "channel"}
    (scene.channel,) = call("discuss.channel", "create", [channel])
    call("discuss.channel", "add_members", [scene.channel], partner_ids=partners)
    leads = [{"name": f"Lead {n}", "type": "opportunity"} for n in range(LEADS)]
    call("crm.lead", "create", leads)


def add_job(scene: Scene) -> None:
    """A cron job that runs when it is triggered only, and what triggers it."""
    call = scene.admin.call
    (model,) = call("ir.model", "search", [["model", "=", "res.partner"]])
    job = {
        "name": "Leave a trace",
        "model_id": model,
        "state": "code",
        "code": LEAVE_A_TRACE,
        "interval_number": 12,
        "interval_type": "months",
        "nextcall": "2999-01-01 00:00:00",
    }
    (made,) = call("ir.cron", "create", [job])
    trigger = {"name": "Trigger", "model_id": model, "state": "code"}
    trigger["code"] = TRIGGER % made
    (scene.server_action,) = call("ir.actions.server", "create", [trigger])
