/* Included ahead of every source file of the library, which is compiled with hidden visibility: what the
 * public headers declare is visible, all else stays hidden. */
#pragma GCC visibility push(default)
#include <gmm/balloon.h>
#include <gmm/gmm.h>
#include <gmm/modules.h>
#include <gmm/pages.h>
#pragma GCC visibility pop
