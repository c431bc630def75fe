# find_package(restkv) gives restkv::restkv, the whole library, and restkv::dist, kvcache, model, launch, its folders.
# Headers keep their paths: #include "kvcache/kv_cache.h" reads include/restkv/kvcache/kv_cache.h.
include(CMakePackageConfigHelpers)

add_library(restkv_all INTERFACE)
set_target_properties(restkv_all PROPERTIES EXPORT_NAME restkv)
target_link_libraries(restkv_all INTERFACE restkv_launch restkv_model restkv_kvcache restkv_dist)
add_library(restkv::restkv ALIAS restkv_all)

set(restkv_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/restkv)
install(TARGETS restkv_all restkv_launch restkv_model restkv_kvcache restkv_dist EXPORT restkv-targets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS restkv RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY dist kvcache model launch DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/restkv
        FILES_MATCHING PATTERN "*.h")
install(EXPORT restkv-targets NAMESPACE restkv:: DESTINATION ${restkv_package_dir})

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/restkv-config.cmake.in
                              ${PROJECT_BINARY_DIR}/restkv-config.cmake INSTALL_DESTINATION ${restkv_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/restkv-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/restkv-config.cmake ${PROJECT_BINARY_DIR}/restkv-config-version.cmake
        DESTINATION ${restkv_package_dir})
if(RESTKV_HAS_CUDA)
  install(FILES cmake/FindNCCL.cmake cmake/FindCUDNN.cmake DESTINATION ${restkv_package_dir})
endif()
