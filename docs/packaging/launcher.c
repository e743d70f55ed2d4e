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
 */

#include <Python.h>

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

int main(int argc, char **argv)
{
	PyConfig config;
	PyStatus status;

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
