# From the files of a checkpoint to weights on the device.
target_sources(fla_model PRIVATE
  checkpoint_file.cc
  checkpoint_layout.cc
  checkpoint_report.cc
  guarded_map.cc
  safetensors_header.cc
  support_table.cc
  tensor_conversion.cc
  tensor_transfer.cc)
