# Included by bench/CMakeLists.txt where the build has CUDA: what makes the checks of kernels once as
# programs for a GPU and once, from the same sources, as programs that run them as fibers on a CPU.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
find_package(Threads REQUIRED)
set(emulator ${CMAKE_CURRENT_LIST_DIR})

# A program NAME of bench/cuda/NAME.cu.
function(fla_add_cuda_check name)
  add_executable(${name} ${PROJECT_SOURCE_DIR}/bench/cuda/${name}.cu)
  set_target_properties(${name} PROPERTIES CUDA_RUNTIME_LIBRARY Static)
  target_link_libraries(${name} PRIVATE fla_kernels fla_options CUDA::cudart_static)
endfunction()

# A library of emulated KERNELS and, for each of CHECKS, a program CHECK_emulated. HEADERS are
# converted too; STAND_INS are the emulator's for the headers in kernels/cuda that are not; SOURCES
# go into the library as they are. Paths from the root, those of STAND_INS from the emulator.
function(fla_add_emulated library)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "KERNELS;CHECKS;HEADERS;STAND_INS;SOURCES")
  set(root ${CMAKE_CURRENT_BINARY_DIR}/${library})
  list(TRANSFORM arg_CHECKS REPLACE "(.+)" "bench/cuda/\\1.cu" OUTPUT_VARIABLE checks)
  set(names ${arg_KERNELS} ${checks} ${arg_HEADERS})
  list(TRANSFORM names PREPEND ${PROJECT_SOURCE_DIR}/ OUTPUT_VARIABLE from)
  list(TRANSFORM arg_STAND_INS PREPEND ${emulator}/)
  list(TRANSFORM arg_SOURCES PREPEND ${PROJECT_SOURCE_DIR}/)
  list(TRANSFORM arg_KERNELS REPLACE "(.+)" "${root}/\\1.cc" OUTPUT_VARIABLE kernel_files)
  list(TRANSFORM checks REPLACE "(.+)" "${root}/\\1.cc" OUTPUT_VARIABLE check_files)
  add_custom_command(
    OUTPUT ${kernel_files} ${check_files}
    COMMAND Python3::Interpreter ${emulator}/convert.py ${PROJECT_SOURCE_DIR} ${root} ${names}
    COMMAND ${CMAKE_COMMAND} -E copy ${arg_STAND_INS} ${root}/kernels/cuda
    DEPENDS ${from} ${arg_STAND_INS} ${emulator}/convert.py)
  add_library(${library} STATIC ${kernel_files} ${emulator}/emulator.cc ${arg_SOURCES})
  target_include_directories(${library} BEFORE PUBLIC ${root})
  target_include_directories(${library} PUBLIC ${CUDAToolkit_INCLUDE_DIRS})
  # nvcc lets kernels read halves as pairs, as elements.cuh does.
  target_compile_options(${library} PUBLIC -w -fno-strict-aliasing)
  target_link_libraries(${library} PUBLIC fla_options Threads::Threads)
  foreach(check file IN ZIP_LISTS arg_CHECKS check_files)
    add_executable(${check}_emulated ${file})
    target_link_libraries(${check}_emulated PRIVATE ${library})
  endforeach()
endfunction()
