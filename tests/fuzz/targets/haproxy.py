"""What HAProxy answers on its stats socket, whole, cut, or something else altogether.

Each step is an answer; what is asked next takes it. A bad one raises `HAProxyError`,
and nothing else.
"""

import socket
from typing import Any

import ha.transport as transport
from ha import haproxy
from ha.errors import HAProxyError
from ha.haproxy import HAProxy
from ha.watch import HAProxyWatch
from tests.fuzz.steps import Step
from tests.fuzz.targets import Found

PICTURE, INFO, STATES, WORKERS, SESSIONS, WEIGHT, ORDER, CHANGE, WATCH = range(9)
COLUMNS = (
    "# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,"
    "wretr,wredis,status,weight,act,bck,chkfail,chkdown,lastchg,downtime,qlimit,pid,iid,"
    "sid,throttle,lbtot,tracked,type,rate,check_status,check_code,addr,\n"
)
ROWS = (
    "pg,FRONTEND,,,1,2,1000,5,0,0,0,0,0,,,,,OPEN,,,,,,,,,1,2,0,,,,0,0,,,,\n",
    "pg,a,0,0,1,2,,5,0,0,,0,,0,0,0,0,UP 1/3,1,1,0,0,0,9,0,,1,2,1,,5,,2,0,"
    "L7OK,200,1.2.3.4:5,\n",
    "pg,b,0,0,1,2,,5,0,0,,0,,0,0,0,0,DOWN (agent),1,1,0,0,0,9,0,,1,2,2,,5,,2,0,"
    "* L4TOUT,,x,\n",
    'pg,"c,d",0,0,,,,,,,,,,,,,,MAINT (via x/y),256,0,1,,,,,,1,2,3,,,,2,0,'
    '"a ""b""",0,,\n',
    "pg,BACKEND,0,0,1,2,100,5,0,0,0,0,,0,0,0,0,UP 1/2,1,1,0,,0,9,0,,1,2,0,,5,,1,"
    "0,,,,\n",
)
TEXTS = [
    COLUMNS + "".join(ROWS) + "\n", COLUMNS, COLUMNS + ROWS[1], *ROWS, "\n", "",
    "Name: HAProxy\nVersion: 2.6.12\nPid: 77\nUptime_sec: 9\n\n",
    "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state "
    "srv_uweight srv_iweight\n2 pg 1 a 1.2.3.4 2 0 1 1\n\n",
    "#<PID>          <type>          <reloads>       <uptime>        <version>\n"
    "77              master          0               0d00h00m01s     2.6\n# workers\n"
    "78              worker          0               0d00h00m01s     2\n# programs\n\n",
    "1 (initial 1)\n\n", "256 (initial 1)", "\n[3]: No such server.\n\n", "\n\n", "\n",
    "Unknown command: 'x', but maybe one of the following ones is a better match:\n",
    "Permission denied\n", "\n[6]: done\n", "#", ",,,\n", '"', "\0", "\ufeff",
]  # fmt: skip
RAW = [text.encode() for text in TEXTS]
words = dict.fromkeys(range(9), RAW)
MOST = 60_000  # bytes that a pair of sockets takes at once


class Desk:
    """Gives the input's answers to whoever connects."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers
        self.asked = 0

    def connect(self, endpoint: Any, ends: float) -> socket.socket:
        self.asked += 1
        if self.asked > 40:
            raise Found("asked again and again")
        if not self.answers:
            raise ConnectionRefusedError(111, "nobody there")
        ours, theirs = socket.socketpair()
        theirs.sendall(self.answers.pop(0)[:MOST])
        theirs.shutdown(socket.SHUT_WR)
        kept.append(theirs)
        return ours


kept: list[socket.socket] = []


def ask(one: HAProxy, what: int) -> None:
    """Ask what the step says; every answer of ours may be what comes."""
    if what == PICTURE:
        picture = one.picture()
        for row in picture.rows:
            repr((row, row.usable, picture.others_usable(row.proxy, row.name)))
    elif what == INFO:
        one.info()
    elif what == STATES:
        for state in one.server_states():
            repr(state.forced)
        one.state_file()
    elif what == WORKERS:
        one.workers()
    elif what == SESSIONS:
        one.sessions_on("pg", "a")
    elif what == WEIGHT:
        one.weight_of("pg", "a")
    elif what == ORDER:
        one.set_state("pg", "a", "drain")
    elif what == CHANGE:
        one.hear_agent("pg", "a")
    else:
        watch = HAProxyWatch.from_setting("/one, 127.0.0.1:2")
        for haproxies in watch.haproxies:
            watch.look(haproxies)


def run(setup: bytes, steps: list[Step]) -> None:
    """Play one input."""
    desk = Desk([step.data for step in steps])
    transport.connect = desk.connect  # type: ignore[assignment]
    one = HAProxy("/stats", 5, "/master" if setup[0] & 1 else None)
    try:
        for step in steps[:8]:
            try:
                ask(one, step.what % 9)
            except HAProxyError as problem:
                str(problem)
    finally:
        for sock in kept:
            sock.close()
        kept.clear()


# Nobody waits for a HAProxy that is a pair of sockets.
haproxy.BUSY_PAUSE = transport.BUSY_PAUSE = 0.0
haproxy.RELOAD_GAP = transport.RELOAD_GAP = 0.0
