# What the library, the programs and the tests link, all found by pkg-config.

find_package(PkgConfig REQUIRED)
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

# The library's own. gmm-dedup.pc names the same modules for those who link the static library.
set(GMM_PC_REQUIRES libxxhash liburcu-bp liburcu-cds numa)
pkg_check_modules(GMM_DEPS REQUIRED IMPORTED_TARGET ${GMM_PC_REQUIRES})
add_library(gmm-deps INTERFACE)
target_link_libraries(gmm-deps INTERFACE PkgConfig::GMM_DEPS Threads::Threads)

# The programs'.
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(SERVICE REQUIRED IMPORTED_TARGET inih libsystemd libmicrohttpd)
