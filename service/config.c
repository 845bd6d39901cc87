/* The service's configuration, read with libinih. */
#include "service/config.h"

#include <errno.h>
#include <grp.h>
#include <ini.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void gmm__config_init(struct gmm__config *config)
{
	*config = (struct gmm__config){
		.socket = "/run/gmm-dedup/socket", .socket_mode = 0666, .userfaultfd = true, .cpu_percent = UINT32_MAX,
		.max_clients = 1024, .max_clients_of_user = 512, .max_vms = 4096, .max_ram_pages = 1ull << 28,
		.max_vms_of_user = 2048, .max_ram_pages_of_user = 1ull << 30,
		.pages_per_second = 500000, .user_pages_per_second = 1000000,
	};
}

struct reading {
	struct gmm__config config;
	char why[256];
};

static bool fail(struct reading *r, const char *what, const char *value)
{
	snprintf(r->why, sizeof r->why, "%s: '%.120s'", what, value);
	return false;
}

static bool read_number(struct reading *r, const char *value, int base, uint64_t min, uint64_t max, uint64_t *ret)
{
	char *end;

	errno = 0;
	unsigned long long number = strtoull(value, &end, base);
	if (*value < '0' || *value > '9' || *end || errno || number < min || number > max)
		return fail(r, "not a number in its range", value);
	*ret = number;
	return true;
}

static bool read_u32(struct reading *r, const char *value, uint32_t min, uint32_t max, uint32_t *ret)
{
	uint64_t number;

	if (!read_number(r, value, 10, min, max, &number))
		return false;
	*ret = (uint32_t)number;
	return true;
}

static bool read_bool(struct reading *r, const char *value, bool *ret)
{
	if (strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
		return fail(r, "neither yes nor no", value);
	*ret = value[0] == 'y';
	return true;
}

static bool read_user(struct reading *r, const char *value, uint32_t *ret)
{
	const struct passwd *user = getpwnam(value);

	if (user)
		*ret = user->pw_uid;
	return user || read_u32(r, value, 0, UINT32_MAX - 1, ret) || fail(r, "no such user", value);
}

static bool read_group(struct reading *r, const char *value, uint32_t *ret)
{
	const struct group *group = getgrnam(value);

	if (group)
		*ret = group->gr_gid;
	return group || read_u32(r, value, 0, UINT32_MAX - 1, ret) || fail(r, "no such group", value);
}

/* ---- sections ------------------------------------------------------------------------------------------------ */

static bool read_service(struct reading *r, const char *key, const char *value)
{
	struct gmm__config *c = &r->config;
	uint64_t mode;

	if (strcmp(key, "socket") == 0) {
		if (value[0] != '/' || strlen(value) >= sizeof c->socket)
			return fail(r, "not an absolute path of at most 107 bytes", value);
		strcpy(c->socket, value);
		return true;
	}
	if (strcmp(key, "socket_mode") == 0) {
		if (!read_number(r, value, 8, 0, 0777, &mode))
			return false;
		c->socket_mode = (uint32_t)mode;
		return true;
	}
	if (strcmp(key, "userfaultfd") == 0)
		return read_bool(r, value, &c->userfaultfd);
	if (strcmp(key, "metrics_ksm") == 0)
		return read_bool(r, value, &c->metrics_ksm);
	if (strcmp(key, "metrics_domains") == 0)
		return read_bool(r, value, &c->metrics_domains);
	return fail(r, "no such key in [service]", key);
}

static bool read_limits(struct reading *r, const char *key, const char *value)
{
	struct gmm__config *c = &r->config;

	if (strcmp(key, "clients") == 0)
		return read_u32(r, value, 1, 65536, &c->max_clients);
	if (strcmp(key, "clients_per_user") == 0)
		return read_u32(r, value, 1, 65536, &c->max_clients_of_user);
	if (strcmp(key, "vms") == 0)
		return read_u32(r, value, 1, 65535, &c->max_vms);
	if (strcmp(key, "vms_per_user") == 0)
		return read_u32(r, value, 1, 65535, &c->max_vms_of_user);
	if (strcmp(key, "ram_pages_per_user") == 0)
		return read_number(r, value, 10, 1, 1ull << 32, &c->max_ram_pages_of_user);
	if (strcmp(key, "domain_ram_pages") == 0)
		return read_number(r, value, 10, 1, 1ull << 32, &c->max_ram_pages);
	if (strcmp(key, "domain_pool_pages") == 0)
		return read_number(r, value, 10, 0, 1ull << 32, &c->max_pool_pages);
	if (strcmp(key, "pages_per_second") == 0)
		return read_u32(r, value, 1000, 1000000000, &c->pages_per_second);
	if (strcmp(key, "pages_per_second_per_user") == 0)
		return read_u32(r, value, 1000, 1000000000, &c->user_pages_per_second);
	return fail(r, "no such key in [limits]", key);
}

static bool read_tenants(struct reading *r, const char *value)
{
	struct gmm__domain_rules *rules = &r->config.rules;
	char list[512];

	if (strlen(value) >= sizeof list)
		return fail(r, "too long", value);
	strcpy(list, value);
	for (char *save, *name = strtok_r(list, ", ", &save); name; name = strtok_r(NULL, ", ", &save)) {
		if (rules->n_tenant_users == GMM__TENANT_USERS_MAX)
			return fail(r, "too many users", value);
		if (!read_user(r, name, &rules->tenant_user[rules->n_tenant_users]))
			return false;
		rules->n_tenant_users++;
	}
	return true;
}

/* libinih cuts longer names of sections, and two cut names may be one. */
enum { RULE_NAME_MAX = 40 };

static struct gmm__domain_rule *find_rule(struct reading *r, const char *name)
{
	struct gmm__domain_rules *rules = &r->config.rules;

	for (uint32_t i = 0; i < rules->n_rules; i++)
		if (strcmp(rules->rule[i].name, name) == 0)
			return &rules->rule[i];
	if (!name[0] || strlen(name) > RULE_NAME_MAX || strchr(name, GMM__DOMAIN_MARK) ||
	    rules->n_rules == GMM__RULES_MAX) {
		fail(r, "not a name for a domain, or too many", name);
		return NULL;
	}
	struct gmm__domain_rule *rule = &rules->rule[rules->n_rules++];
	strcpy(rule->name, name);
	return rule;
}

static bool read_domain(struct reading *r, const char *name, const char *key, const char *value)
{
	struct gmm__domain_rule *rule = find_rule(r, name);

	if (!rule)
		return false;
	if (strcmp(key, "user") == 0)
		return rule->has_user = read_user(r, value, &rule->uid);
	if (strcmp(key, "group") == 0)
		return rule->has_group = read_group(r, value, &rule->gid);
	if (strcmp(key, "ask") == 0)
		return read_bool(r, value, &rule->ask);
	if (strcmp(key, "cgroup") != 0)
		return fail(r, "no such key in [domain ...]", key);
	if (value[0] != '/' || strlen(value) >= sizeof rule->cgroup)
		return fail(r, "not a path of a cgroup", value);
	strcpy(rule->cgroup, value);
	return true;
}

/* For libinih: 0 is an error. */
static int take(void *arg, const char *section, const char *key, const char *value)
{
	struct reading *r = arg;

	if (strcmp(section, "service") == 0)
		return read_service(r, key, value);
	if (strcmp(section, "limits") == 0)
		return read_limits(r, key, value);
	if (strcmp(section, "agents") == 0 && strcmp(key, "cpu_percent") == 0)
		return read_u32(r, value, 0, 6400, &r->config.cpu_percent);
	if (strcmp(section, "domains") == 0 && strcmp(key, "multi_tenant_users") == 0)
		return read_tenants(r, value);
	if (strncmp(section, "domain ", 7) == 0)
		return read_domain(r, section + 7, key, value);
	return fail(r, "no such key or section", key);
}

int gmm__config_read(const char *path, struct gmm__config *ret_config, char *ret_why, size_t why_size)
{
	struct reading *r = calloc(1, sizeof *r);

	if (!r)
		return -ENOMEM;
	gmm__config_init(&r->config);
	errno = 0;
	int line = ini_parse(path, take, r);
	int rc = line == 0 ? 0 : line < 0 ? (errno ? -errno : -EIO) : -EINVAL;
	if (rc == 0)
		*ret_config = r->config;
	else if (line > 0)
		snprintf(ret_why, why_size, "%s, line %d: %s", path, line, r->why[0] ? r->why : "not KEY = VALUE");
	else
		snprintf(ret_why, why_size, "%s: %s", path, strerror(-rc));
	free(r);
	return rc;
}
