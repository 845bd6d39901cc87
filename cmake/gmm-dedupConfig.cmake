# find_package(gmm-dedup) defines gmm::dedup, the shared library.
include(${CMAKE_CURRENT_LIST_DIR}/gmm-dedupTargets.cmake)
