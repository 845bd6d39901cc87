/* Which trust domain may a VM of this peer be in? A pure function of what the kernel says about the peer, what it asks
 * for, and the operator's rules.
 *
 * Without a rule a peer shares with those of the same user and the same security label. Root, and users that run the VMs
 * of many tenants, share with nobody until a rule names a domain for them. A peer may ask for a name: that of a rule which
 * lets it in, or any other, which is then a part of its own default domain. So a name that a peer makes up never meets
 * one of another user.
 */
#ifndef SERVICE_DOMAIN_H
#define SERVICE_DOMAIN_H

#include <gmm/gmm.h>

enum { GMM__PEER_GROUPS = 32, GMM__LABEL_MAX = 128, GMM__CGROUP_MAX = 512, GMM__RULES_MAX = 64, GMM__TENANT_USERS_MAX = 16 };

/* What the kernel says about the process at the other end. */
struct gmm__peer {
	uint32_t uid, gid;
	int32_t pid;
	uint32_t n_groups;
	uint32_t group[GMM__PEER_GROUPS];  /* supplementary; those beyond are not seen by rules */
	char label[GMM__LABEL_MAX];        /* security label; empty: none */
	bool label_too_long;               /* then it has no default domain */
	char cgroup[GMM__CGROUP_MAX];      /* path in the unified hierarchy; empty: unknown */
};

/* A rule names a domain and who may be in it: all conditions that are set must hold. */
struct gmm__domain_rule {
	char name[GMM_NAME_MAX + 1];       /* not with GMM__DOMAIN_MARK in it */
	bool has_user, has_group;
	uint32_t uid, gid;
	char cgroup[GMM__CGROUP_MAX];      /* pattern of glob(7), or empty */
	bool ask;                          /* only for VMs that ask for it */
};

struct gmm__domain_rules {
	uint32_t n_rules;
	struct gmm__domain_rule rule[GMM__RULES_MAX]; /* the first that fits counts */
	uint32_t n_tenant_users;
	uint32_t tenant_user[GMM__TENANT_USERS_MAX];  /* users that run many tenants; root always does */
};

/* In names of default domains ("uid:1000"), never in those of rules. */
#define GMM__DOMAIN_MARK ':'

/* The domain's name, or GMM_ERR_NO_DOMAIN. wanted: empty for no wish. */
int gmm__domain_choose(const struct gmm__domain_rules *rules, const struct gmm__peer *peer, const char *wanted,
		       char ret_name[GMM_NAME_MAX + 1]);

/* True if there is any domain that the peer might be let in. */
bool gmm__domain_any(const struct gmm__domain_rules *rules, const struct gmm__peer *peer);

#endif
