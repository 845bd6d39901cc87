/* gmm-bench qemu: unmodified QEMU guests under each engine. What it does is a script, bench/qemu.sh, on top of the harness
 * that the tests use. */
#include "bench/verbs.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The folder of this program. */
static bool own_folder(char path[PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);

	if (n <= 0)
		return false;
	path[n] = '\0';
	char *slash = strrchr(path, '/');
	*slash = '\0';
	return true;
}

int bench_qemu(int argc, char **argv)
{
	char bin[PATH_MAX];
	static char script[] = GMM_SOURCE_DIR "/bench/qemu.sh";

	(void)argc;
	if (!own_folder(bin) || setenv("BIN", bin, 1) != 0 || setenv("SRC", GMM_SOURCE_DIR, 1) != 0)
		return 1;
	argv[0] = script;
	execv(script, argv);
	fprintf(stderr, "gmm-bench qemu: %s: %s\n", script, strerror(errno));
	return 1;
}
