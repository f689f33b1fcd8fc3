#include "model/tensor_transfer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <exception>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "kernels/check.h"
#include "kernels/fp8.h"
#include "model/tensor_conversion.h"

namespace fla {
namespace {

constexpr int64_t kPieceBytes = 4 << 20;     // as held
constexpr int64_t kStagingBytes = 64 << 20;  // that a round of a GPU's transfer fills
constexpr unsigned kMaxThreads = 8;  // enough for the fastest disks; memory is the next bound
constexpr size_t kExpected = 16;     // pieces that the disk is asked for ahead of their use

// Grows, and forgets what was in it.
char* Reserve(Buffer& buffer, int64_t bytes) {
  const auto size = static_cast<size_t>(bytes);
  if (buffer.size() < size) buffer = Buffer({}, size);
  return buffer.as<char>();
}

}  // namespace

int64_t TensorTransfer::Piece::stored_bytes() const {
  int64_t bytes = 0;
  for (const Segment& segment : segments) bytes += segment.stored_bytes();
  return bytes;
}

bool TensorTransfer::Piece::IsOneAsStored() const {
  if (segments.size() != 1 || segments[0].tensor == nullptr || fp8.cols > 0) return false;
  return IsStoredAs(*segments[0].tensor, held) &&
         segments[0].offset() % static_cast<int64_t>(SizeOf(held)) == 0;
}

int64_t TensorTransfer::Piece::held_bytes() const {
  int64_t count = 0;
  for (const Segment& segment : segments) count += segment.count;
  return count * static_cast<int64_t>(SizeOf(held));
}

// Threads that fill host memory, for the time of one round.
class TensorTransfer::Workers {
 public:
  // `pieces`: of all rounds, in their order.
  Workers(std::span<const Piece> pieces, const std::function<void(double)>& progress)
      : threads_(std::clamp(std::thread::hardware_concurrency(), 1u, kMaxThreads)),
        pieces_(pieces),
        progress_(progress) {
    for (const Piece& piece : pieces) total_bytes_ += piece.stored_bytes();
    total_bytes_ = std::max<int64_t>(total_bytes_, 1);
    for (const Piece& piece : pieces.first(std::min(kExpected, pieces.size()))) Expect(piece);
  }

  // Fills the targets of all jobs. Throws what the first job to fail threw, or `progress`.
  void Run(std::span<const Job> jobs) {
    next_ = 0;
    jobs_ = jobs;
    std::vector<std::thread> others;
    for (size_t i = 1; i < std::min<size_t>(threads_, jobs.size()); ++i) {
      others.emplace_back([this] { Work({}); });
    }
    Work(progress_);
    for (std::thread& other : others) other.join();
    if (error_ != nullptr) std::rethrow_exception(error_);
  }

 private:
  void Work(const std::function<void(double)>& progress) {
    Buffer panel;  // for those that are not in the file as they are held; stays in caches
    try {
      for (size_t i = next_++; i < jobs_.size(); i = next_++) {
        const size_t later = static_cast<size_t>(jobs_[i].piece - pieces_.data()) + kExpected;
        if (later < pieces_.size()) Expect(pieces_[later]);
        Fill(jobs_[i], panel);
        done_bytes_ += jobs_[i].piece->stored_bytes();
        if (progress) {
          progress(static_cast<double>(done_bytes_) / static_cast<double>(total_bytes_));
        }
      }
    } catch (...) {
      next_ = jobs_.size();
      const std::lock_guard lock(mutex_);
      if (error_ == nullptr) error_ = std::current_exception();
    }
  }

  static void Expect(const Piece& piece) {
    for (const Segment& segment : piece.segments) {
      if (segment.tensor == nullptr) continue;
      segment.tensor->source->Expect(segment.offset(), segment.stored_bytes());
    }
  }

  static void Fill(const Job& job, Buffer& panel) {
    const Piece& piece = *job.piece;
    if (piece.packing != nullptr && piece.IsOneAsStored()) {
      const Segment& rows = piece.segments[0];
      return rows.tensor->source->With(
          rows.offset(), rows.stored_bytes(),
          [&](std::span<const char> bytes) { piece.packing->Pack(piece.panel, bytes.data()); });
    }
    char* const begin = piece.packing == nullptr ? job.target : Reserve(panel, piece.held_bytes());
    char* target = begin;
    for (const Segment& segment : piece.segments) {
      Fill(segment, piece, target);
      target += segment.count * static_cast<int64_t>(SizeOf(piece.held));
    }
    if (piece.packing != nullptr) piece.packing->Pack(piece.panel, begin);
  }

  static void Fill(const Segment& segment, const Piece& piece, char* target) {
    const DType held = piece.held;
    if (segment.tensor == nullptr) {
      std::memset(target, 0, static_cast<size_t>(segment.count) * SizeOf(held));
      return;
    }
    const StoredTensor& tensor = *segment.tensor;
    tensor.source->With(
        segment.offset(), segment.stored_bytes(), [&](std::span<const char> stored) {
          if (piece.fp8.cols > 0) {
            FillFp8(segment, stored.data(), piece, target);
          } else if (IsStoredAs(tensor, held)) {
            std::memcpy(target, stored.data(), stored.size());
          } else {
            ConvertElements(tensor, segment.first, segment.count, stored.data(), held, target);
          }
        });
  }

  static void FillFp8(const Segment& segment, const char* stored, const Piece& piece,
                      char* target) {
    const StoredTensor& tensor = *segment.tensor;
    const int64_t cols = piece.fp8.cols,
                  row_bytes = cols * static_cast<int64_t>(SizeOf(piece.held));
    std::vector<float> row(static_cast<size_t>(cols));
    for (int64_t i = 0; i < segment.count / cols; ++i, target += row_bytes) {
      const int64_t first = segment.first + i * cols;
      ConvertElements(tensor, first, cols, stored + i * cols * SizeOf(tensor.dtype), DType::kF32,
                      reinterpret_cast<char*>(row.data()));
      const float scale = Fp8Scale(row);
      if (std::isnan(scale)) {
        throw std::runtime_error(tensor.file() + ": tensor " + tensor.name + ": row " +
                                 std::to_string(first / cols) +
                                 ": wanted finite weights of at most " +
                                 std::to_string(static_cast<int>(kMaxFp8Weight)) +
                                 ", which fp8_e4m3 can hold, got others");
      }
      if (piece.held == DType::kF8E4M3) {
        PackFp8(row, scale, reinterpret_cast<uint8_t*>(target));
        piece.fp8.scales[i] = scale;
      } else {
        RoundToFp8(row, scale, reinterpret_cast<BFloat16*>(target));
      }
    }
  }

  const size_t threads_;
  const std::span<const Piece> pieces_;
  int64_t total_bytes_ = 0;
  const std::function<void(double)>& progress_;
  std::span<const Job> jobs_;
  std::atomic<size_t> next_ = 0;
  std::atomic<int64_t> done_bytes_ = 0;
  std::mutex mutex_;
  std::exception_ptr error_;
};

void TensorTransfer::Add(const StoredTensor& tensor, DType held, void* target, Fp8Rows fp8) {
  const auto size = static_cast<int64_t>(SizeOf(held));
  const int64_t unit = std::max<int64_t>(fp8.cols, 1);
  const int64_t most = kPieceBytes / size / unit * unit;
  for (int64_t first = 0; first < tensor.elements; first += most) {
    pieces_.push_back({{{&tensor, first, std::min(most, tensor.elements - first)}},
                       held,
                       static_cast<char*>(target) + first * size,
                       {fp8.cols, fp8.scales == nullptr ? nullptr : fp8.scales + first / unit}});
  }
}

void TensorTransfer::AddPacked(const std::vector<Block>& blocks, int64_t cols, DType held, bool fp8,
                               const LinearPacking& packing) {
  FLA_CHECK(!staged_);
  packings_.push_back(packing);
  size_t block = 0;
  int64_t taken = 0;  // rows of it
  for (int64_t panel = 0; panel < packing.panels(); ++panel) {
    std::vector<Segment> segments;
    for (int64_t left = packing.NumRows(panel); left > 0;) {
      const auto [tensor, rows] = blocks.at(block);
      const int64_t some = std::min(left, rows - taken);
      if (some > 0) segments.push_back({tensor, taken * cols, some * cols});
      taken += some;
      left -= some;
      if (taken == rows) {
        ++block;
        taken = 0;
      }
    }
    const Fp8Rows rows = {.cols = fp8 ? cols : 0};
    pieces_.push_back({std::move(segments), held, nullptr, rows, &packings_.back(), panel});
  }
}

void TensorTransfer::Run(Stream& stream, const std::function<void(double)>& progress) {
  const auto place = [](const Piece& piece) {
    for (const Segment& segment : piece.segments) {
      if (segment.tensor != nullptr) {
        return std::pair(std::string_view{segment.tensor->file()}, segment.offset());
      }
    }
    return std::pair(std::string_view{}, int64_t{0});
  };
  std::stable_sort(pieces_.begin(), pieces_.end(),
                   [&](const Piece& a, const Piece& b) { return place(a) < place(b); });
  Workers workers(pieces_, progress);
  if (staged_) {
    RunThroughStaging(stream, workers);
  } else {
    std::vector<Job> jobs;
    for (const Piece& piece : pieces_) jobs.push_back({&piece, piece.target});
    workers.Run(jobs);
  }
  if (progress) progress(1.0);  // what the other threads did last, it has not heard
  pieces_.clear();
  packings_.clear();
}

// Two buffers take turns: one is filled while the other is copied.
void TensorTransfer::RunThroughStaging(Stream& stream, Workers& workers) {
  struct Round {
    HostBuffer memory;
    Fence copied;
  };
  const Device device = stream.device();
  Round rounds[2] = {{{device, kStagingBytes}, Fence(device)},
                     {{device, kStagingBytes}, Fence(device)}};
  for (size_t begin = 0, turn = 0; begin < pieces_.size(); turn = 1 - turn) {
    Round& round = rounds[turn];
    round.copied.Wait();
    std::vector<Job> jobs;
    int64_t filled = 0;
    for (size_t i = begin; i < pieces_.size() && filled + kPieceBytes <= kStagingBytes; ++i) {
      jobs.push_back({&pieces_[i], round.memory.data() + filled});
      filled += pieces_[i].held_bytes();
    }
    workers.Run(jobs);
    for (const Job& job : jobs) {
      stream.CopyToDevice(job.piece->target, job.target,
                          static_cast<size_t>(job.piece->held_bytes()));
    }
    round.copied.Record(stream);
    begin += jobs.size();
  }
  stream.Synchronize();
}

}  // namespace fla
