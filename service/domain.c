/* Which trust domain may a VM of this peer be in? */
#include "service/domain.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

static bool in_group(const struct gmm__peer *peer, uint32_t gid)
{
	bool found = peer->gid == gid;

	for (uint32_t i = 0; !found && i < peer->n_groups; i++)
		found = peer->group[i] == gid;
	return found;
}

/* A rule without conditions lets nobody in: a mistake in a file must not put everybody into one domain. */
static bool fits(const struct gmm__domain_rule *rule, const struct gmm__peer *peer)
{
	if (!rule->has_user && !rule->has_group && !rule->cgroup[0])
		return false;
	if (rule->has_user && rule->uid != peer->uid)
		return false;
	if (rule->has_group && !in_group(peer, rule->gid))
		return false;
	return !rule->cgroup[0] || (peer->cgroup[0] && fnmatch(rule->cgroup, peer->cgroup, 0) == 0);
}

static bool is_tenant_user(const struct gmm__domain_rules *rules, uint32_t uid)
{
	bool found = uid == 0;

	for (uint32_t i = 0; !found && i < rules->n_tenant_users; i++)
		found = rules->tenant_user[i] == uid;
	return found;
}

/* "uid:1000", "uid:1000/LABEL", "uid:1000+WANTED", "uid:1000/LABEL+WANTED". A label or wish that could be taken for a
 * different split of the same text is refused. */
static int default_domain(const struct gmm__domain_rules *rules, const struct gmm__peer *peer, const char *wanted,
			  char ret_name[GMM_NAME_MAX + 1])
{
	char name[GMM_NAME_MAX + 1];

	if (is_tenant_user(rules, peer->uid) || peer->label_too_long || strchr(peer->label, '+') || strchr(wanted, '+'))
		return GMM_ERR_NO_DOMAIN;
	int n = snprintf(name, sizeof name, "uid:%u%s%s%s%s", peer->uid, peer->label[0] ? "/" : "", peer->label,
			 wanted[0] ? "+" : "", wanted);
	if (n < 0 || (size_t)n >= sizeof name)
		return GMM_ERR_NO_DOMAIN;
	strcpy(ret_name, name);
	return GMM_OK;
}

int gmm__domain_choose(const struct gmm__domain_rules *rules, const struct gmm__peer *peer, const char *wanted,
		       char ret_name[GMM_NAME_MAX + 1])
{
	bool is_ruled = false;

	for (uint32_t i = 0; i < rules->n_rules; i++) {
		const struct gmm__domain_rule *rule = &rules->rule[i];
		bool is_meant = wanted[0] ? strcmp(rule->name, wanted) == 0 : !rule->ask;
		is_ruled |= wanted[0] && is_meant;
		if (is_meant && fits(rule, peer)) {
			strcpy(ret_name, rule->name);
			return GMM_OK;
		}
	}
	/* Who asks for a domain of the operator's and is not let in should hear of it. */
	return is_ruled ? GMM_ERR_NO_DOMAIN : default_domain(rules, peer, wanted, ret_name);
}

bool gmm__domain_any(const struct gmm__domain_rules *rules, const struct gmm__peer *peer)
{
	char name[GMM_NAME_MAX + 1];

	for (uint32_t i = 0; i < rules->n_rules; i++)
		if (fits(&rules->rule[i], peer))
			return true;
	return default_domain(rules, peer, "", name) == GMM_OK;
}
