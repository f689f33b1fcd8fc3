# From the files of a checkpoint to weights on the device.
target_sources(fla_model PRIVATE
  checkpoint_file.cc
  safetensors_header.cc
  tensor_conversion.cc
  tensor_transfer.cc)
