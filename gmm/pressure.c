/* PSI files; see pressure.h. */
#include "gmm/pressure.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static bool parse_line(const char *text, const char *kind, uint64_t *ret_us)
{
	const char *line = strstr(text, kind);
	const char *total = line ? strstr(line, "total=") : NULL;
	const char *end = line ? strchr(line, '\n') : NULL;
	unsigned long long us;

	if (!total || (end && total > end) || sscanf(total, "total=%llu", &us) != 1)
		return false;
	*ret_us = us;
	return true;
}

bool gmm__psi_parse(const char *text, struct gmm__psi *ret_psi)
{
	struct gmm__psi psi;

	if (strncmp(text, "some ", 5) != 0 || !parse_line(text, "some ", &psi.some_us) ||
	    !parse_line(text, "full ", &psi.full_us))
		return false;
	*ret_psi = psi;
	return true;
}

int gmm__psi_read(const struct gmm__sys *sys, const char *path, struct gmm__psi *ret_psi)
{
	char text[256];
	ssize_t n = sys->file_read(path, text, sizeof text);

	if (n < 0)
		return (int)n;
	return gmm__psi_parse(text, ret_psi) ? 0 : -EINVAL;
}

bool gmm__psi_own_cgroup(const struct gmm__sys *sys, char *ret_path, size_t size)
{
	char text[4096], path[512];
	struct gmm__psi psi;

	if (sys->file_read("/proc/self/cgroup", text, sizeof text) < 0)
		return false;
	char *line = strncmp(text, "0::", 3) == 0 ? text : strstr(text, "\n0::");
	if (!line)
		return false;
	line += *line == '\n' ? 4 : 3;
	line[strcspn(line, "\n")] = 0;
	int n = snprintf(path, sizeof path, "/sys/fs/cgroup%s%smemory.pressure", line, strcmp(line, "/") == 0 ? "" : "/");
	if (n < 0 || (size_t)n >= size || (size_t)n >= sizeof path || gmm__psi_read(sys, path, &psi) != 0)
		return false;
	memcpy(ret_path, path, (size_t)n + 1);
	return true;
}

uint32_t gmm__psi_look(const struct gmm__sys *sys, struct gmm__psi_watch *watch)
{
	struct gmm__psi psi;
	uint64_t now = sys->clock_ns(), permille = 0;

	if (gmm__psi_read(sys, watch->path, &psi) != 0)
		return 0;
	if (watch->last_ns && now > watch->last_ns && psi.some_us > watch->last.some_us)
		permille = (psi.some_us - watch->last.some_us) * 1000000 / (now - watch->last_ns);
	watch->last = psi;
	watch->last_ns = now;
	return permille < 1000 ? (uint32_t)permille : 1000;
}
