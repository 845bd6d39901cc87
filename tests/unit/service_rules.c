/* Who may share with whom, and how the configuration says so. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/config.h"
#include "tests/unit/support/unit.h"

static struct gmm__config config;
static char why[512];

static int read_text(const char *text)
{
	char path[] = "/tmp/gmm-config.XXXXXX";
	int fd = mkstemp(path);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	why[0] = 0;
	int rc = gmm__config_read(path, &config, why, sizeof why);
	unlink(path);
	return rc;
}

/* The domain's name, or "-". */
static const char *choose(uint32_t uid, const char *label, const char *cgroup, const char *wanted)
{
	static char name[GMM_NAME_MAX + 1];
	struct gmm__peer peer = { .uid = uid, .gid = uid, .n_groups = 1, .group = { 42 } };

	strcpy(peer.label, label);
	strcpy(peer.cgroup, cgroup);
	strcpy(name, "-");
	int status = gmm__domain_choose(&config.rules, &peer, wanted, name);
	ck_assert(status == GMM_OK || (status == GMM_ERR_NO_DOMAIN && name[0] == '-'));
	ck_assert(status != GMM_OK || wanted[0] || gmm__domain_any(&config.rules, &peer));
	return name;
}

START_TEST(default_domains)
{
	gmm__config_init(&config);
	ck_assert_str_eq(choose(1000, "", "", ""), "uid:1000");
	ck_assert_str_eq(choose(1000, "svirt_t:s0:c1,c2", "", ""), "uid:1000/svirt_t:s0:c1,c2");
	ck_assert_str_eq(choose(0, "", "", ""), "-");
	ck_assert_str_eq(choose(0, "", "", "web"), "-");
	/* A name of one's own is a part of one's own domain. */
	ck_assert_str_eq(choose(1000, "", "", "web"), "uid:1000+web");
	ck_assert_str_eq(choose(1000, "", "", "uid:1001"), "uid:1000+uid:1001");
	/* What could be read in two ways. */
	ck_assert_str_eq(choose(1000, "a+b", "", "c"), "-");
	ck_assert_str_eq(choose(1000, "a", "", "b+c"), "-");
	/* What does not fit is not cut. */
	ck_assert_str_eq(choose(1000, "a-label-that-is-longer-than-any-name-of-a-domain-may-ever-be", "", ""), "-");
}
END_TEST

START_TEST(rules_name_domains)
{
	ck_assert_int_eq(read_text("[domains]\nmulti_tenant_users = 64055, 7\n"
				   "[domain web]\nuser = 64055\ncgroup = /machine.slice/web*\n"
				   "[domain lab]\ngroup = 42\nuser = 1001\n"
				   "[domain special]\nuser = 1000\nask = yes\n"
				   "[domain nobody]\nask = no\n"), 0);
	ck_assert_str_eq(choose(64055, "", "/machine.slice/web-3", ""), "web");
	ck_assert_str_eq(choose(64055, "", "/machine.slice/db", ""), "-");
	ck_assert_str_eq(choose(64055, "", "", ""), "-");
	ck_assert_str_eq(choose(7, "", "", ""), "-");
	ck_assert_str_eq(choose(1001, "", "", ""), "lab");
	ck_assert_str_eq(choose(1000, "", "", ""), "uid:1000");
	ck_assert_str_eq(choose(1000, "", "", "special"), "special");
	ck_assert_str_eq(choose(1001, "", "", "special"), "-"); /* not its own by that name: it was meant */
	ck_assert_str_eq(choose(1002, "", "", "nobody"), "-");  /* no condition lets nobody in */
}
END_TEST

START_TEST(values_are_read)
{
	ck_assert_int_eq(read_text("[service]\nsocket = /run/x\nsocket_mode = 660\nuserfaultfd = no\nmetrics_ksm = yes\nmetrics_domains = yes\n"
				   "[limits]\nclients = 3\nclients_per_user = 2\nvms = 9\ndomain_ram_pages = 100\n"
				   "domain_pool_pages = 50\npages_per_second = 1000\n"
				   "vms_per_user = 8\nram_pages_per_user = 70\npages_per_second_per_user = 2000\n[agents]\ncpu_percent = 7\n"), 0);
	ck_assert_str_eq(config.socket, "/run/x");
	ck_assert_uint_eq(config.socket_mode, 0660);
	ck_assert(!config.userfaultfd);
	ck_assert(config.metrics_ksm);
	ck_assert(config.metrics_domains);
	ck_assert_uint_eq(config.max_clients, 3);
	ck_assert_uint_eq(config.max_clients_of_user, 2);
	ck_assert_uint_eq(config.max_vms, 9);
	ck_assert_uint_eq(config.max_ram_pages, 100);
	ck_assert_uint_eq(config.max_pool_pages, 50);
	ck_assert_uint_eq(config.pages_per_second, 1000);
	ck_assert_uint_eq(config.max_vms_of_user, 8);
	ck_assert_uint_eq(config.max_ram_pages_of_user, 70);
	ck_assert_uint_eq(config.user_pages_per_second, 2000);
	ck_assert_uint_eq(config.cpu_percent, 7);
}
END_TEST

START_TEST(mistakes_are_refused_with_their_line)
{
	static const char *const wrong[] = {
		"[service]\nsocket = x\n", "[service]\nsocket_mode = 999\n", "[service]\nuserfaultfd = maybe\n",
		"[service]\ncolour = red\n", "[limits]\nclients = 0\n", "[limits]\nclients = 1x\n",
		"[limits]\npages_per_second = 99999999999\n", "[agents]\ncpu_percent = -1\n", "[nothing]\nx = 1\n",
		"[domain a:b]\nuser = 0\n", "[domain x]\nuser = no-such-user-here\n", "[domain x]\ngroup = no-such-group\n",
		"[domain x]\ncgroup = relative\n", "[domain x]\nask = 1\n", "[domain x]\ncolour = red\n",
		"[domains]\nmulti_tenant_users = no-such-user-here\n", "[service]\nnonsense\n",
		"[domain a-name-that-is-longer-than-libinih-keeps-x]\nuser = 0\n",
	};

	gmm__config_init(&config);
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		ck_assert_msg(read_text(wrong[i]) == -EINVAL, "taken: %s", wrong[i]);
		ck_assert_msg(strstr(why, "line 2"), "%s", why);
	}
	ck_assert_uint_eq(config.rules.n_rules, 0);
	ck_assert_int_eq(gmm__config_read("/nonexistent/config", &config, why, sizeof why), -ENOENT);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { default_domains, rules_name_domains, values_are_read,
				       mistakes_are_refused_with_their_line };

	return unit_main("service_rules", tests, sizeof tests / sizeof *tests);
}
