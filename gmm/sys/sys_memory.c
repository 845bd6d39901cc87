/* How much memory this process may use: the host's, or a cgroup's limit. */
#include "gmm/sys/sys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_SIZE = 512 };

static uint64_t host_bytes(const struct gmm__sys *sys)
{
	char text[4096];
	const char *line = sys->file_read("/proc/meminfo", text, sizeof text) > 0 ? strstr(text, "MemTotal:") : NULL;

	return line ? strtoull(line + strlen("MemTotal:"), NULL, 10) * 1024 : UINT64_MAX;
}

/* A limit file holds a number, or "max"; version 1 writes a huge number for none. */
static uint64_t limit_in(const struct gmm__sys *sys, const char *path)
{
	char text[64], *end;

	if (sys->file_read(path, text, sizeof text) <= 0)
		return UINT64_MAX;
	uint64_t limit = strtoull(text, &end, 10);
	return end == text ? UINT64_MAX : limit;
}

/* The smallest limit of a cgroup and those above it. `group` is cut on the way. */
static uint64_t limit_above(const struct gmm__sys *sys, const char *root, char *group, const char *file)
{
	uint64_t least = UINT64_MAX;
	char path[PATH_SIZE + 64];

	for (;;) {
		snprintf(path, sizeof path, "%s%s/%s", root, strcmp(group, "/") == 0 ? "" : group, file);
		uint64_t limit = limit_in(sys, path);
		if (limit < least)
			least = limit;
		char *slash = strrchr(group, '/');
		if (!slash)
			return least;
		*slash = 0;
	}
}

/* Lines of /proc/self/cgroup are "0::/group" (version 2) or "4:memory:/group" (version 1). */
static uint64_t cgroup_bytes(const struct gmm__sys *sys)
{
	char text[4096], group[PATH_SIZE], *rest = text;
	uint64_t least = UINT64_MAX;

	if (sys->file_read("/proc/self/cgroup", text, sizeof text) <= 0)
		return UINT64_MAX;
	for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
		bool v2 = strncmp(line, "0::", 3) == 0;
		char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!path || (!v2 && !strstr(controllers, "memory")))
			continue;
		snprintf(group, sizeof group, "%.*s", PATH_SIZE - 1, path + 1);
		uint64_t limit = limit_above(sys, v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory", group,
					     v2 ? "memory.max" : "memory.limit_in_bytes");
		if (limit < least)
			least = limit;
	}
	return least;
}

uint64_t gmm__sys_memory_bytes(const struct gmm__sys *sys)
{
	uint64_t host = host_bytes(sys), cgroup = cgroup_bytes(sys);

	return cgroup < host ? cgroup : host;
}
