/* Figures for Prometheus over HTTP, served by the service's own loop. */
#ifndef SERVICE_METRICS_H
#define SERVICE_METRICS_H

#include "service/service.h"

/* Listens. *ret_fd becomes readable when gmm__metrics_run has something to do. 0 or a negative errno. */
int gmm__metrics_start(struct gmm__service *service, const char *address, struct gmm__metrics **ret_metrics, int *ret_fd);
void gmm__metrics_run(struct gmm__metrics *metrics);
void gmm__metrics_stop(struct gmm__metrics *metrics);

/* The text of an answer, malloc'ed; NULL without memory. */
char *gmm__metrics_text(struct gmm__service *service, bool by_domain);

#endif
