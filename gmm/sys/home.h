/* Home: a thread whose table of descriptors only it and the threads that it started use.
 *
 * A program may close descriptors that it has not opened: daemons close all from 3 up, and a number that was ours can come
 * to mean a file of the program's. It would then be mapped into guest memory; and a userfaultfd that is closed while pages
 * are frozen lets guests read zeros. So an instance may have its descriptors where no other thread can close, replace or
 * see them, by whatever call, and where they keep nothing of the program's open.
 *
 * The engine's threads are started at home and make calls themselves. Other threads' calls are made by the home thread
 * while they wait. It takes no lock meanwhile, so that it can be asked with any lock held.
 */
#ifndef GMM_SYS_HOME_H
#define GMM_SYS_HOME_H

#include "gmm/sys/sys.h"

/* Whether the calling thread is one of home's. */
extern _Thread_local bool gmm__sys_at_home;

/* A descriptor of /dev/userfaultfd that was passed to us and is there; -1: none. */
extern _Atomic int gmm__sys_home_device;

#endif
