#include "kernels/cpu/panel_product.h"

#include <omp.h>

#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <unordered_map>

#include "kernels/device.h"

namespace fla::cpu {
namespace {

using dnnl::memory;

constexpr size_t kAlignment = 64;  // of panels

const dnnl::engine& Engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// What a thread needs to run primitives: they are single-threaded, the loops around them are ours
// (kernels/cpu/parallel.h), and oneDNN would ask OpenMP for a team.
struct ThreadContext {
  ThreadContext() : stream(Engine()) { omp_set_num_threads(1); }

  dnnl::stream stream;
  // Arguments of each tile of each product that ran here: memory objects are slow to make. All
  // tiles of a product at its first use, so that memory does not grow with every batch size that
  // comes.
  using Arguments = std::unordered_map<int, memory>;
  std::vector<std::array<Arguments, kShortTile + 2>> arguments;
  Buffer scratch;

  static ThreadContext& Mine() {
    thread_local ThreadContext context;
    return context;
  }
};

memory::data_type TypeOf(DType dtype) {
  return dtype == DType::kF32 ? memory::data_type::f32 : memory::data_type::bf16;
}

dnnl::matmul::primitive_desc Describe(const memory::desc& x, const memory::desc& panel,
                                      const memory::desc& out) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
#if DNNL_VERSION_MAJOR >= 3
  return {Engine(), x, panel, out, attributes};
#else
  return {dnnl::matmul::desc(x, panel, out), attributes, Engine()};
#endif
}

// Kernels that read blocked weights and go through K in one order; the others (gemm) pick their
// order by the shape.
bool IsWanted(DType dtype, const char* kernel) {
  const std::string name(kernel);
  return name.rfind("brg", 0) == 0 &&
         name.find(dtype == DType::kF32 ? "avx512_core" : "amx") != std::string::npos;
}

std::atomic<int> products = 0;

}  // namespace

PanelProduct::PanelProduct(DType dtype, int64_t length, int64_t columns)
    : dtype_(dtype), length_(length), columns_(columns), index_(products++) {
  ThreadContext::Mine();
  const auto type = TypeOf(dtype);
  const auto describe = [&](int64_t rows, const memory::desc& panel) {
    return Describe({{rows, length}, type, memory::format_tag::ab}, panel,
                    {{rows, columns}, memory::data_type::f32, memory::format_tag::ab});
  };
  try {
    panel_ =
        describe(kShortTile, {{length, columns}, type, memory::format_tag::any}).weights_desc();
    panel_bytes_ = (panel_.get_size() + kAlignment - 1) / kAlignment * kAlignment;
    // AMX multiplies sixteen rows in the time of one.
    for (int rows = dtype == DType::kF32 ? 1 : kShortTile; rows <= kShortTile; ++rows) {
      const auto description = describe(rows, panel_);
      if (!IsWanted(dtype, description.impl_info_str())) return;
      short_[rows] = Tile{description, dnnl::matmul(description)};
    }
    const auto description = describe(kLongTile, panel_);
    if (!IsWanted(dtype, description.impl_info_str())) return;
    long_ = Tile{description, dnnl::matmul(description)};
    supported_ = RowsAreTheSameInAllTiles();
  } catch (const dnnl::error&) {
    // No kernel for this processor, type or layout.
  }
}

bool PanelProduct::RowsAreTheSameInAllTiles() const {
  const size_t element = SizeOf(dtype_);
  const auto fill = [&](int64_t count) {
    // Numbers of all sizes and both signs, so that another order of sums has other bits.
    std::vector<char> values(count * element);
    uint32_t state = 1;
    for (int64_t i = 0; i < count; ++i) {
      state = state * 1664525u + 1013904223u;
      const float value = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
      if (dtype_ == DType::kF32) {
        std::memcpy(values.data() + i * element, &value, element);
      } else {
        const BFloat16 rounded(value);
        std::memcpy(values.data() + i * element, &rounded, element);
      }
    }
    return values;
  };
  const std::vector<char> x = fill(kLongTile * length_);
  const std::vector<char> weights = fill(columns_ * length_);
  const Buffer memory(Device(), panel_bytes_);
  void* const panel = memory.data();
  Pack(weights.data(), panel);

  std::vector<float> wanted(kLongTile * columns_), actual(kLongTile * columns_);
  Multiply(kLongTile, x.data(), panel, wanted.data());
  for (int rows = 1; rows <= kShortTile; ++rows) {
    if (TileRows(rows) != rows) continue;
    // The first rows of the long tile and its last.
    for (const int64_t first : {int64_t{0}, int64_t{kLongTile - rows}}) {
      Multiply(rows, x.data() + first * length_ * element, panel, actual.data());
      if (std::memcmp(actual.data(), wanted.data() + first * columns_,
                      rows * columns_ * sizeof(float)) != 0) {
        return false;
      }
    }
  }
  return true;
}

const PanelProduct* PanelProduct::Find(DType dtype, int64_t length, int64_t columns) {
  static std::mutex mutex;
  static std::map<std::tuple<DType, int64_t, int64_t>, std::unique_ptr<PanelProduct>> all;
  const std::lock_guard lock(mutex);
  std::unique_ptr<PanelProduct>& product = all[{dtype, length, columns}];
  if (product == nullptr) product.reset(new PanelProduct(dtype, length, columns));
  return product->supported_ ? product.get() : nullptr;
}

void PanelProduct::Pack(const void* rows, void* panel) const {
  ThreadContext& mine = ThreadContext::Mine();
  memory from({{length_, columns_}, TypeOf(dtype_), memory::format_tag::ba}, Engine(),
              const_cast<void*>(rows));
  memory to(panel_, Engine(), panel);
  dnnl::reorder(from, to).execute(mine.stream, from, to);
  mine.stream.wait();
}

int PanelProduct::TileRows(int rows) const {
  return rows < kShortTile && !short_[rows].has_value() ? kShortTile : rows;
}

const PanelProduct::Tile& PanelProduct::TileOf(int rows) const {
  return rows == kLongTile ? *long_ : *short_[rows];
}

void PanelProduct::Multiply(int rows, const void* x, const void* panel, float* out) const {
  ThreadContext& mine = ThreadContext::Mine();
  const Tile& tile = TileOf(rows);
  if (mine.arguments.size() <= static_cast<size_t>(index_)) mine.arguments.resize(index_ + 1);
  auto& all = mine.arguments[index_];
  ThreadContext::Arguments& arguments = all[rows == kLongTile ? kShortTile + 1 : rows];
  if (arguments.empty()) {
    const auto make = [&](const std::optional<Tile>& of, ThreadContext::Arguments& made) {
      if (!of.has_value()) return;
      const auto& description = of->description;
      made = {{DNNL_ARG_SRC, memory(description.src_desc(), Engine(), nullptr)},
              {DNNL_ARG_WEIGHTS, memory(panel_, Engine(), nullptr)},
              {DNNL_ARG_DST, memory(description.dst_desc(), Engine(), nullptr)},
              {DNNL_ARG_SCRATCHPAD, memory(description.scratchpad_desc(), Engine(), nullptr)}};
      const size_t scratch = description.scratchpad_desc().get_size();
      if (mine.scratch.size() < scratch) mine.scratch = Buffer(Device(), scratch);
    };
    for (int i = 1; i <= kShortTile; ++i) make(short_[i], all[i]);
    make(long_, all[kShortTile + 1]);
  }
  arguments.at(DNNL_ARG_SCRATCHPAD).set_data_handle(mine.scratch.data());
  arguments.at(DNNL_ARG_SRC).set_data_handle(const_cast<void*>(x));
  arguments.at(DNNL_ARG_WEIGHTS).set_data_handle(const_cast<void*>(panel));
  arguments.at(DNNL_ARG_DST).set_data_handle(out);
  tile.primitive.execute(mine.stream, arguments);
  mine.stream.wait();
}

}  // namespace fla::cpu
