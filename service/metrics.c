/* Figures for Prometheus over HTTP. */
#include "service/metrics.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "service/pools.h"
#include "service/session.h"

enum { CONNECTIONS_MAX = 16, TIMEOUT_S = 10 };

struct gmm__metrics {
	struct gmm__service *service;
	struct MHD_Daemon *daemon;
	char path[108]; /* of a Unix socket, which only its owner and group can open; else empty */
};

/* ---- text ------------------------------------------------------------------------------------------------------------ */

static void head(FILE *out, const char *name, const char *type, const char *help)
{
	fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void plain(FILE *out, const char *name, const char *type, const char *help, uint64_t value)
{
	head(out, name, type, help);
	fprintf(out, "%s %lu\n", name, value);
}

/* A label's value: quotes, backslashes and line ends are escaped. */
static void label(FILE *out, const char *key, const char *value)
{
	fprintf(out, "%s=\"", key);
	for (; *value; value++) {
		if (*value == '"' || *value == '\\')
			fputc('\\', out);
		if (*value == '\n')
			fputs("\\n", out);
		else
			fputc(*value, out);
	}
	fputc('"', out);
}

static uint64_t pool_pages(const struct gmm__pooled *p)
{
	return p->domain->pool.used_pages;
}

static uint64_t references(const struct gmm__pooled *p)
{
	return p->domain->pool.references;
}

static uint64_t saved(const struct gmm__pooled *p)
{
	return p->recovering ? 0 : p->domain->pool.references - p->domain->pool.used_pages;
}

static uint64_t vms(const struct gmm__pooled *p)
{
	return p->domain->vms - 1;
}

static uint64_t ram(const struct gmm__pooled *p)
{
	return p->domain->pages;
}

static void domains(FILE *out, const struct gmm__service *service, bool by_domain)
{
	static const struct {
		const char *name, *help;
		uint64_t (*value)(const struct gmm__pooled *p);
	} figures[] = {
		{ "gmm_dedup_pool_pages", "Shared pages in use.", pool_pages },
		{ "gmm_dedup_references", "Guest pages that use a shared page.", references },
		{ "gmm_dedup_saved_pages", "Pages of memory that sharing saves.", saved },
		{ "gmm_dedup_vms", "Virtual machines.", vms },
		{ "gmm_dedup_ram_pages", "RAM of the virtual machines in pages.", ram },
		{ "gmm_dedup_pool_file_pages", "Memory behind the pool's files in pages.", gmm__pooled_file_pages },
	};

	for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
		uint64_t sum = 0;
		head(out, figures[i].name, "gauge", figures[i].help);
		for (const struct gmm__pooled *p = service->pooled; p; p = p->next) {
			sum += figures[i].value(p);
			if (!by_domain)
				continue;
			fprintf(out, "%s{", figures[i].name);
			label(out, "domain", p->domain->name);
			fprintf(out, "} %lu\n", figures[i].value(p));
		}
		if (!by_domain)
			fprintf(out, "%s %lu\n", figures[i].name, sum);
	}
}

static void vm_states(FILE *out, const struct gmm__service *service)
{
	head(out, "gmm_dedup_vm_pages", "gauge", "Pages of a virtual machine by state.");
	for (const struct gmm_vm *vm = service->gmm->vms; vm; vm = vm->next) {
		for (int i = 0; i < GMM_PAGE_STATES; i++) {
			if (!vm->stats.state_pages[i])
				continue;
			fprintf(out, "gmm_dedup_vm_pages{");
			label(out, "vm", vm->name);
			fprintf(out, ",number=\"%u\",", vm->number); /* names need not be unique */
			label(out, "domain", vm->domain->name);
			fprintf(out, ",state=\"%s\"} %lu\n", gmm_page_state_name((enum gmm_page_state)i),
				vm->stats.state_pages[i]);
		}
	}
}

/* As node_exporter names what the kernel says in /sys/kernel/mm/ksm. */
static void ksm(FILE *out, const struct gmm__service *service)
{
	uint64_t shared = 0, sharing = 0, unshared = 0, volatiles = 0;

	for (const struct gmm__pooled *p = service->pooled; p; p = p->next) {
		shared += pool_pages(p);
		sharing += saved(p);
	}
	for (const struct gmm_vm *vm = service->gmm->vms; vm; vm = vm->next) {
		unshared += vm->stats.state_pages[GMM_PAGE_UNIQUE];
		volatiles += vm->stats.state_pages[GMM_PAGE_VOLATILE];
	}
	plain(out, "node_ksmd_pages_shared", "gauge", "Shared pages in use.", shared);
	plain(out, "node_ksmd_pages_sharing", "gauge", "Pages saved.", sharing);
	plain(out, "node_ksmd_pages_unshared", "gauge", "Pages that are unique.", unshared);
	plain(out, "node_ksmd_pages_volatile", "gauge", "Pages that change too fast.", volatiles);
}

static void counters(FILE *out, const struct gmm__service *service)
{
	uint64_t clients = 0, zombies = 0, agent_ns = 0;

	for (const struct gmm__session *s = service->sessions; s; s = s->next) {
		clients += s->client && s->socket >= 0;
		zombies += s->client && s->socket < 0;
		agent_ns += s->told.cpu_ns;
	}
	plain(out, "gmm_dedup_clients", "gauge", "Connected processes.", clients);
	plain(out, "gmm_dedup_zombies", "gauge", "Processes without connection that still map shared pages.", zombies);
	plain(out, "gmm_dedup_metadata_bytes", "gauge", "The service's own tables.", service->gmm->mem.bytes);
	plain(out, "gmm_dedup_messages_total", "counter", "Messages of clients.", service->messages);
	plain(out, "gmm_dedup_offered_pages_total", "counter", "Pages that clients offered.", service->offered_pages);
	plain(out, "gmm_dedup_promoted_pages_total", "counter", "Pages put into the pool.", service->promoted_pages);
	plain(out, "gmm_dedup_violations_total", "counter", "Connections ended for breaking the protocol.",
	      service->violations);
	head(out, "gmm_dedup_cpu_seconds_total", "counter", "CPU time of the service's thread.");
	fprintf(out, "gmm_dedup_cpu_seconds_total %.3f\n",
		(double)gmm__sys_of(service->gmm)->thread_cpu_ns() / 1e9);
	head(out, "gmm_dedup_agent_cpu_seconds", "gauge", "CPU time of the agents of the clients there are.");
	fprintf(out, "gmm_dedup_agent_cpu_seconds %.3f\n", (double)agent_ns / 1e9);
}

char *gmm__metrics_text(struct gmm__service *service, bool by_domain)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	counters(out, service);
	domains(out, service, by_domain);
	if (by_domain)
		vm_states(out, service);
	if (service->config.metrics_ksm)
		ksm(out, service);
	if (fclose(out) == 0)
		return text;
	free(text);
	return NULL;
}

/* ---- HTTP ------------------------------------------------------------------------------------------------------------ */

static enum MHD_Result reply(struct MHD_Connection *connection, unsigned status, char *text)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_COPY);

	if (!response)
		return MHD_NO;
	MHD_add_response_header(response, "Content-Type", "text/plain; version=0.0.4");
	enum MHD_Result result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result answer(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
			      const char *version, const char *upload, size_t *upload_size, void **state)
{
	const struct gmm__metrics *metrics = arg;
	char not_found[] = "GET /metrics\n";

	(void)version, (void)upload, (void)upload_size, (void)state;
	if (strcmp(method, "GET") != 0 || strcmp(url, "/metrics") != 0)
		return reply(connection, MHD_HTTP_NOT_FOUND, not_found);
	/* Whoever is on this host can connect to a port. */
	bool by_domain = metrics->path[0] || metrics->service->config.metrics_domains;
	char *text = gmm__metrics_text(metrics->service, by_domain);
	if (!text)
		return MHD_NO;
	enum MHD_Result result = reply(connection, MHD_HTTP_OK, text);
	free(text);
	return result;
}

/* "PORT" or "ADDRESS:PORT", IPv4. */
static int parse_address(const char *text, struct sockaddr_in *ret)
{
	char host[64] = "127.0.0.1", *end;
	const char *colon = strrchr(text, ':'), *port = colon ? colon + 1 : text;
	unsigned long number = strtoul(port, &end, 10);

	if (colon && (size_t)(colon - text) < sizeof host) {
		memcpy(host, text, (size_t)(colon - text));
		host[colon - text] = 0;
	}
	*ret = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)number) };
	if (*port < '0' || *port > '9' || *end || number == 0 || number > 65535)
		return -EINVAL;
	return inet_pton(AF_INET, host, &ret->sin_addr) == 1 ? 0 : -EINVAL;
}

static int listen_at(const char *path)
{
	struct sockaddr_un where = { .sun_family = AF_UNIX };
	struct stat st;

	if (strlen(path) >= sizeof where.sun_path)
		return -ENAMETOOLONG;
	strcpy(where.sun_path, path);
	if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
		unlink(path); /* of an earlier process */
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	mode_t mask = umask(0117);
	int rc = fd >= 0 && bind(fd, (struct sockaddr *)&where, sizeof where) == 0 && listen(fd, CONNECTIONS_MAX) == 0 ?
		 0 : -errno;
	umask(mask);
	if (rc != 0 && fd >= 0)
		close(fd);
	return rc == 0 ? fd : rc;
}

/* No thread of its own: the service's loop runs it. */
static int start_daemon(struct gmm__metrics *metrics, const char *address)
{
	struct sockaddr_in where;
	bool is_path = address[0] == '/';
	int fd = is_path ? listen_at(address) : -1, rc = is_path ? fd : parse_address(address, &where);

	if (rc < 0)
		return rc;
	struct MHD_OptionItem where_option[] = {
		is_path ? (struct MHD_OptionItem){ MHD_OPTION_LISTEN_SOCKET, fd, NULL } :
			  (struct MHD_OptionItem){ MHD_OPTION_SOCK_ADDR, 0, &where },
		{ MHD_OPTION_END, 0, NULL },
	};
	metrics->daemon = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, answer, metrics, MHD_OPTION_ARRAY, where_option,
					   MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
					   MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)TIMEOUT_S, MHD_OPTION_END);
	if (is_path)
		strcpy(metrics->path, address);
	return metrics->daemon ? 0 : -EADDRINUSE;
}

int gmm__metrics_start(struct gmm__service *service, const char *address, struct gmm__metrics **ret_metrics, int *ret_fd)
{
	struct gmm__metrics *metrics = calloc(1, sizeof *metrics);

	if (!metrics)
		return -ENOMEM;
	metrics->service = service;
	int rc = start_daemon(metrics, address);
	const union MHD_DaemonInfo *info = rc == 0 ? MHD_get_daemon_info(metrics->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
	if (!info) {
		if (metrics->daemon)
			MHD_stop_daemon(metrics->daemon);
		free(metrics);
		return rc ? rc : -EADDRINUSE;
	}
	*ret_fd = info->epoll_fd;
	*ret_metrics = metrics;
	return 0;
}

void gmm__metrics_run(struct gmm__metrics *metrics)
{
	MHD_run(metrics->daemon);
}

void gmm__metrics_stop(struct gmm__metrics *metrics)
{
	MHD_stop_daemon(metrics->daemon);
	if (metrics->path[0])
		unlink(metrics->path);
	free(metrics);
}
