# find_package(restkv) gives restkv::restkv, the whole library.
add_library(restkv_all INTERFACE)
set_target_properties(restkv_all PROPERTIES EXPORT_NAME restkv)
target_link_libraries(restkv_all INTERFACE restkv_launch restkv_model restkv_kvcache restkv_dist)
add_library(restkv::restkv ALIAS restkv_all)
