# Installs the header, both libraries, the pkg-config file and the CMake package. All are relocatable.

include(CMakePackageConfigHelpers)

install(TARGETS gmm-shared EXPORT gmm-dedupTargets)
install(TARGETS gmm-static)
if(TARGET gmm-preload)
	install(TARGETS gmm-preload LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/gmm-dedup)
endif()
install(FILES ${gmm_headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/gmm)

set(gmm_cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/gmm-dedup)
install(EXPORT gmm-dedupTargets NAMESPACE gmm:: DESTINATION ${gmm_cmake_dir})
write_basic_package_version_file(gmm-dedupConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES
	${PROJECT_SOURCE_DIR}/cmake/gmm-dedupConfig.cmake
	${PROJECT_BINARY_DIR}/gmm-dedupConfigVersion.cmake
	DESTINATION ${gmm_cmake_dir})

file(RELATIVE_PATH gmm_pc_to_prefix ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" gmm_pc_to_prefix ${gmm_pc_to_prefix})
list(JOIN GMM_PC_REQUIRES " " gmm_pc_requires)
configure_file(cmake/gmm-dedup.pc.in gmm-dedup.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/gmm-dedup.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# Units, user and configuration of the service.
configure_file(systemd/gmm-dedup.service.in gmm-dedup.service @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/gmm-dedup.service systemd/gmm-dedup.socket DESTINATION lib/systemd/system)
install(FILES systemd/gmm-dedup.sysusers DESTINATION lib/sysusers.d RENAME gmm-dedup.conf)
install(FILES systemd/60-gmm-dedup.rules DESTINATION lib/udev/rules.d)
install(FILES systemd/gmm-dedup.conf DESTINATION ${CMAKE_INSTALL_SYSCONFDIR})
