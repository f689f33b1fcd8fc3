# The CPU backend; added to target fla_kernels by kernels/CMakeLists.txt.
include(${CMAKE_CURRENT_LIST_DIR}/sources_recurrence.cmake OPTIONAL)
