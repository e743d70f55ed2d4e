/*
 * /usr/sbin/pgbouncer as a program of its own, and not as a script.
 *
 * Init scripts compare /proc/PID/exe with the path of the daemon, pidof looks at
 * argv[0], pkill at the name in the kernel: behind a script all three would be the
 * interpreter's. This program is linked with the interpreter instead. It uses the
 * virtual environment that PYTHON belongs to, and nothing of the caller's: no
 * PYTHONPATH, no user site, not the directory it is started in.
 *
 *   cc -O2 -DPYTHON='"/opt/pybouncer/bin/python3"' launcher.c -o pgbouncer \
 *       $(python3-config --embed --cflags --ldflags)
 *
 * python3-config must be that of the Python that the environment was made from.
 *
 * Without a virtual environment MODULES names the directory that our modules stand in,
 * and PYTHON is the system's (the Debian package is built so).
 *
 * PYBOUNCER_USER in the environment, said by a unit whose ExecStart begins with "!",
 * is the user to become before anything is read. It is done here and not by systemd's
 * User=, because with that systemd before 254 cannot install a filter of system calls
 * without NoNewPrivileges=, under which pam_unix checks no password.
 */

#define _GNU_SOURCE
#include <Python.h>

#include <grp.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <unistd.h>

#ifndef PYTHON
#error "PYTHON must name the interpreter"
#endif
#ifdef MODULES
#define PATH "import sys; sys.path.insert(0, '" MODULES "')\n"
#else
#define PATH ""
#endif

static void die(PyStatus status)
{
	fprintf(stderr, "pgbouncer: cannot start Python: %s\n",
		status.err_msg ? status.err_msg : "unknown reason");
	exit(1);
}

/* Become the user of PYBOUNCER_USER, for good: no capability can come back. Nothing
 * happens where we are not root: somebody has seen to it already. */
static void become_user(void)
{
	const char *name = getenv("PYBOUNCER_USER");
	struct passwd *user;
	int capability;

	if (!name || geteuid() != 0)
		return;
	user = getpwnam(name);
	if (!user) {
		fprintf(stderr, "pgbouncer: there is no user '%s'\n", name);
		exit(1);
	}
	/* Ends at the first number that the kernel does not know. */
	for (capability = 0; prctl(PR_CAPBSET_READ, capability) >= 0; capability++)
		if (prctl(PR_CAPBSET_DROP, capability) != 0)
			break;
	if (initgroups(name, user->pw_gid) != 0 ||
	    setresgid(user->pw_gid, user->pw_gid, user->pw_gid) != 0 ||
	    setresuid(user->pw_uid, user->pw_uid, user->pw_uid) != 0) {
		fprintf(stderr, "pgbouncer: cannot become '%s': %s\n", name,
			strerror(errno));
		exit(1);
	}
}

int main(int argc, char **argv)
{
	PyConfig config;
	PyStatus status;

	become_user();
	PyConfig_InitIsolatedConfig(&config);
	/* The arguments are ours; Python must not look for -c or -V in them. */
	config.parse_argv = 0;
	/* Unlike other embedders we want Python's own: SIGPIPE ignored. */
	config.install_signal_handlers = 1;

	status = PyConfig_SetBytesString(&config, &config.program_name, PYTHON);
	if (!PyStatus_Exception(status))
		status = PyConfig_SetBytesString(&config, &config.executable, PYTHON);
	if (!PyStatus_Exception(status))
		status = PyConfig_SetBytesArgv(&config, argc, argv);
	if (!PyStatus_Exception(status))
		status = Py_InitializeFromConfig(&config);
	PyConfig_Clear(&config);
	if (PyStatus_Exception(status))
		die(status);

	/* Ends the process by itself; only a broken installation comes back. */
	PyRun_SimpleString(PATH "from bouncer.cli import main; main()");
	return 1;
}
