# added to target fla_kernels by kernels/CMakeLists.txt
